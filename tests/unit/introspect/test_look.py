# SPDX-License-Identifier: GPL-2.0-or-later
"""A look ends, and says so, whatever a check meets in a guest's memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

import vinci.introspect.look
from vinci.introspect.findings import Check, CheckResult, Verdict, verdict_of
from vinci.introspect.guest import Guest
from vinci.introspect.look import FIRST_SECONDS, KNOWN_SECONDS, CheckFunction, Subject, look

REGISTERS = """
CPU#0
RIP=ffffffff81000000 RFL=00000246 CPL=0 II=0 A20=1 SMM=0 HLT=1
RSP=ffffc90000000000
FS =0000 0000000000000000 00000000 00000000
GS =0000 ffff88800dc00000 00000000 00000000
TR =0040 fffffe0000003000 00004087 00008900
GDT=     fffffe0000001000 0000007f
IDT=     fffffe0000000000 00000fff
CR0=80050033 CR2=0000000000000000 CR3=0000000002610000 CR4=000006f0
EFER=0000000000000d01
"""


class _Guest:
    def begin(self, *_: object) -> None:
        pass

    def forget(self) -> None:
        pass


def _look(*functions: tuple[Check, CheckFunction], seconds: float = 5.0) -> tuple[CheckResult, ...]:
    subject = Subject(cast(Guest, _Guest()), None, None)  # type: ignore[arg-type]
    return look(subject, REGISTERS, functions, seconds)


def _clean(check: Check) -> tuple[Check, CheckFunction]:
    return check, lambda _subject: CheckResult(check, 1, 0.1)


def _raises(check: Check, error: BaseException) -> tuple[Check, CheckFunction]:
    def function(_subject: Subject) -> CheckResult:
        raise error

    return check, function


def test_a_check_that_fails_counts_against_the_guest_and_the_others_are_made() -> None:
    rows = _look(_clean(Check.PLACE), _raises(Check.TEXT, KeyError()), _clean(Check.MODULES))
    assert [row.check for row in rows] == [Check.PLACE, Check.TEXT, Check.MODULES]
    assert rows[1].error == "KeyError"
    assert verdict_of(rows) is Verdict.COMPROMISED


def test_memory_that_is_used_up_is_no_vms_fault() -> None:
    """All VMs use it together: whose look it fails at says nothing. The checker ends, and begins with nothing kept."""
    with pytest.raises(MemoryError):
        _look(_clean(Check.PLACE), _raises(Check.TEXT, MemoryError()))


def test_nothing_is_looked_at_when_the_kernel_is_not_found() -> None:
    rows = _look(_raises(Check.PLACE, ValueError("no kernel")), _clean(Check.TEXT))
    assert [row.error for row in rows] == ["ValueError: no kernel"]


def test_a_check_without_end_is_ended() -> None:
    def endless(_subject: Subject) -> CheckResult:
        while True:
            try:
                time.sleep(0)
            except Exception:
                continue

    rows = _look(_clean(Check.PLACE), (Check.PROCESSES, endless), _clean(Check.NETWORK), seconds=0.2)
    assert [row.check for row in rows] == [Check.PLACE, Check.PROCESSES]
    assert "processor time" in str(rows[1].error)
    assert verdict_of(rows) is Verdict.COMPROMISED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_that_is_over_while_nobody_can_tell_is_over_again() -> None:
    """What is raised in a finaliser is only printed."""

    class Swallows:
        def __del__(self) -> None:
            end = time.process_time() + 0.2
            while time.process_time() < end:
                pass

    def endless(_subject: Subject) -> CheckResult:
        Swallows()
        end = time.process_time() + 2.0
        while time.process_time() < end:
            pass
        raise AssertionError("it was not ended")

    (row,) = _look((Check.PROCESSES, endless), seconds=0.1)
    assert "processor time" in str(row.error)


def test_a_known_vm_is_given_less_time_than_one_that_is_explained_for_the_first_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[float] = []

    @contextmanager
    def noted(seconds: float) -> Iterator[None]:
        given.append(seconds)
        yield

    monkeypatch.setattr(vinci.introspect.look, "processor_time", noted)
    subject = Subject(cast(Guest, _Guest()), None, None)  # type: ignore[arg-type]
    for _ in range(2):
        look(subject, REGISTERS, [_clean(Check.PLACE)])
    assert given == [FIRST_SECONDS, KNOWN_SECONDS]


def test_waiting_costs_no_processor_time() -> None:
    def waits(_subject: Subject) -> CheckResult:
        time.sleep(0.4)
        return CheckResult(Check.PLACE, 1, 0.1)

    assert verdict_of(_look((Check.PLACE, waits), seconds=0.2)) is Verdict.TRUSTED


def test_a_defect_of_the_checkers_own_is_no_finding() -> None:
    with pytest.raises(ImportError):
        _look(_raises(Check.PLACE, ModuleNotFoundError("numpy.ma")))
