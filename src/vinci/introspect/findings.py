# SPDX-License-Identifier: GPL-2.0-or-later
"""What introspection says of a VM: findings, the result of each check, and the verdict drawn from them. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Check(StrEnum):
    """What is looked at, in the order in which it is looked at: each rests on those before it."""

    PLACE = "kernel-place"
    """Where the kernel lies, the same for every vCPU; control-register bits."""
    TEXT = "kernel-text"
    """Every byte of the kernel's text explained."""
    RODATA = "kernel-read-only-data"
    ADDRESS_SPACES = "address-spaces"
    """The kernel half of every address space is that of init_top_pgt."""
    EXECUTABLE_PAGES = "executable-kernel-pages"
    """Every executable kernel page is owned by kernel text, a certified module or a named exception."""
    MODULES = "modules"
    HOOKS = "kernel-hooks"
    """ftrace, kprobes, notifier chains, netfilter hooks, file operations, core_pattern, modprobe_path."""
    PROCESSES = "processes"
    """Cross-views of the processes; the declared allow-list of programs."""
    USER_PAGES = "executable-user-pages"
    """Every executable page of a process is a certified file's page."""
    NETWORK = "network"
    """Packet sockets, promiscuous devices, packet handlers, BPF programs."""
    SELINUX = "selinux"
    """SELinux enforces, and its policy is the image's."""


class Severity(StrEnum):
    """How a finding counts."""

    TAMPERED = "tampered"
    """The VM is not what it started."""
    NOTE = "note"
    """To be shown; does not change the verdict."""


class Verdict(StrEnum):
    """What is known of a VM. All but TRUSTED mean: not trusted."""

    TRUSTED = "trusted"
    COMPROMISED = "compromised"
    UNREACHABLE = "unreachable"
    """Its memory or its processors cannot be read."""
    UNCHECKED = "unchecked"
    """No complete look ended in time: the checker failed, hung or fell behind, or has not come to it yet."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    `what` is a sentence for the administrator; `where` names the place as exactly as it is known (`symbol+0x1c`,
    `pid 412 (sshd)`, `/usr/bin/nc page 3`). Both are printable, whatever the guest's memory held.
    """

    check: Check
    what: str
    where: str
    severity: Severity = Severity.TAMPERED


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check's end: how many things were examined, in which time, and what was found.

    `error` is set when the check could not be carried through though the memory could be read; it then counts as
    a finding, as only a tampered guest makes a check fail.
    """

    check: Check
    examined: int
    milliseconds: float
    findings: tuple[Finding, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a VM: a row for each check that was made, in order."""

    vm: str
    verdict: Verdict
    results: tuple[CheckResult, ...]
    milliseconds: float
    reason: str = ""
    """Why the VM is unreachable or unchecked; empty otherwise."""


def rests_on_registers(look: Look) -> bool:
    """Whether all tampering that it found, if any, was found by way of the processors' registers.

    They are older than the memory that was looked at: a process that a processor ran may have ended meanwhile, and
    its page tables with it. Such a finding counts when a look with new registers makes it again; where there is other
    tampering besides, nothing is gained by waiting.
    """
    tampered = [row for row in look.results if verdict_of((row,)) is Verdict.COMPROMISED]
    return bool(tampered) and all(row.check in (Check.PLACE, Check.ADDRESS_SPACES) for row in tampered)


def verdict_of(results: tuple[CheckResult, ...]) -> Verdict:
    """The verdict that a complete look's results make.

    Args:
        results: one row for each check; without any, nothing was checked.
    """
    if not results:
        return Verdict.UNCHECKED
    tampered = any(f.severity is Severity.TAMPERED for row in results for f in row.findings)
    return Verdict.COMPROMISED if tampered or any(row.error for row in results) else Verdict.TRUSTED
