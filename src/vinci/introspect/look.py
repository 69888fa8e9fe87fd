# SPDX-License-Identifier: GPL-2.0-or-later
"""One look at a VM: all checks in order, within bounds, whatever its memory holds."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from vinci.introspect.address_spaces import check_address_spaces
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.executable import check_executable_pages
from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.guest import Budget, Guest
from vinci.introspect.hooks import HookTables, check_hooks
from vinci.introspect.kernel_text import check_rodata, check_text
from vinci.introspect.modules import check_modules
from vinci.introspect.network import check_network
from vinci.introspect.place import check_place
from vinci.introspect.processes import check_processes
from vinci.introspect.registers import parse_registers
from vinci.introspect.selinux import SelinuxWatch
from vinci.introspect.user_pages import check_user_pages

FIRST_SECONDS = 4.0
"""For the first whole look, in which every byte is explained. The checks' own budgets end before; this ends what they
do not count, long before a checker that hangs is killed by the clock (`look_ms`)."""
KNOWN_SECONDS = 2.0
"""For every further look."""
ATTACH_SECONDS = 1.0
_AGAIN_SECONDS = 0.05
"""So soon the time is over again, if whoever it was over for did not take notice."""


@dataclass(slots=True)
class Subject:
    """An attached VM and what it is compared with, for all looks at it."""

    guest: Guest
    certified: CertifiedFiles
    """The files of the image that it runs from."""
    hooks: HookTables
    """What the image of its kernel says of hooks."""
    programs: frozenset[str] | None = None
    """Paths of the programs that may run; None for every program of the image."""
    sandboxed: frozenset[str] | None = None
    """Paths of the programs that may filter their own system calls; None for every one, and for filters of sockets."""
    selinux: SelinuxWatch | None = None
    """Of a VM that was given a policy."""
    known: bool = False
    """Whether a whole look at it was made."""
    ethertypes: frozenset[int] = frozenset()
    """Those that its programs may exchange by packet sockets."""
    policies: tuple[str, ...] = ()
    """What `selinux` compares with, as the request had them."""


CheckFunction = Callable[[Subject], CheckResult]


def _check_selinux(subject: Subject) -> CheckResult:
    """Nothing is examined in a VM that was given no policy."""
    return subject.selinux.check(subject.guest) if subject.selinux else CheckResult(Check.SELINUX, 0, 0.0)


def _check_user_pages(subject: Subject) -> CheckResult:
    """Only a VM whose programs are not declared one by one is its users', who may run what is on their shares."""
    return check_user_pages(subject.guest, subject.certified, shares=subject.programs is None)


CHECKS: tuple[tuple[Check, CheckFunction], ...] = (
    (Check.PLACE, lambda subject: check_place(subject.guest)),
    (Check.TEXT, lambda subject: check_text(subject.guest)),
    (Check.RODATA, lambda subject: check_rodata(subject.guest)),
    (Check.ADDRESS_SPACES, lambda subject: check_address_spaces(subject.guest)),
    (Check.EXECUTABLE_PAGES, lambda subject: check_executable_pages(subject.guest, subject.sandboxed)),
    (Check.MODULES, lambda subject: check_modules(subject.guest)),
    (Check.HOOKS, lambda subject: check_hooks(subject.guest, subject.hooks)),
    (Check.PROCESSES, lambda subject: check_processes(subject.guest, subject.certified, subject.programs)),
    (Check.USER_PAGES, lambda subject: _check_user_pages(subject)),
    (Check.NETWORK, lambda subject: check_network(subject.guest, subject.ethertypes)),
    (Check.SELINUX, lambda subject: _check_selinux(subject)),
)
"""All checks of a look, in order: each rests on those before it."""

FUNDAMENTAL = frozenset({Check.PLACE})
"""When one of these fails, addresses mean nothing any more and later checks would tell nonsense."""


class OutOfTimeError(BaseException):
    """A look used up its processor time. Not an Exception: no check can catch it by mistake."""


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Let the block use so much processor time of this process (setitimer(2), ITIMER_PROF), whoever else computes.

    Raises OutOfTimeError in the block.
    """

    def ran_out(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError(f"looking took more than {seconds:g} s of processor time")

    previous = signal.signal(signal.SIGPROF, ran_out)
    signal.setitimer(signal.ITIMER_PROF, seconds, _AGAIN_SECONDS)  # once may be swallowed, as by a finaliser
    try:
        yield
    finally:
        while True:
            try:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.signal(signal.SIGPROF, previous)
                break
            except OutOfTimeError:
                continue


def look(
    subject: Subject,
    registers: str,
    checks: Sequence[tuple[Check, CheckFunction]] = CHECKS,
    seconds: float | None = None,
) -> tuple[CheckResult, ...]:
    """Make the checks, in order; a row for each that was made.

    A check that fails is a finding: only a tampered guest makes it. After the failure of a fundamental one, or when the
    time is used up, the look ends there.

    Args:
        subject: its guest's translations and budget are begun anew for each check.
        registers: the text of `info registers -a` of now.
        checks: what to check, and by which function.
        seconds: processor time for all of it; None for FIRST_SECONDS or KNOWN_SECONDS.

    Raises:
        ValueError: the registers are not understood.
    """
    processors = parse_registers(registers)
    results: list[CheckResult] = []
    check, started = Check.PLACE, time.perf_counter()
    if seconds is None:
        seconds = KNOWN_SECONDS if subject.known else FIRST_SECONDS
    try:
        with processor_time(seconds):
            for check, function in checks:
                started = time.perf_counter()
                subject.guest.begin(processors, Budget())
                results.append(_made(check, function, subject, started))
                if results[-1].error is not None and check in FUNDAMENTAL:
                    break
            subject.known = len(results) == len(checks)
    except OutOfTimeError as error:
        results.append(CheckResult(check, 0, _since(started), error=str(error)))
    subject.guest.forget()
    return tuple(results)


def _made(check: Check, function: CheckFunction, subject: Subject, started: float) -> CheckResult:
    try:
        return function(subject)
    except (ImportError, MemoryError):
        raise  # a defect of the checker's own, or what all VMs take together: this one is unchecked, not tampered with
    except Exception as error:  # whatever a guest can provoke ends here, and counts against it
        return CheckResult(check, 0, _since(started), error=sentence(error))


def sentence(error: BaseException) -> str:
    """What went wrong, for people."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
