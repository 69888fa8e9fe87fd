# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of a guest that goes on running: what one of them finds may only be the guest in the middle of a change.

Under a load of forks about a third of all samples of the lists of processes do not agree with each other. So a finding
counts when several samples, some time apart, show the same one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from vinci.introspect.findings import Check, CheckResult, Finding, Severity
from vinci.introspect.guest import Guest
from vinci.introspect.memory import Implausible

SAMPLES = 3
PAUSE = 0.02
"""Seconds between two samples."""
MAX_FINDINGS = 100
"""More are only counted: a hostile guest could make any number."""


@dataclass(slots=True)
class Sample:
    """What one pass over a guest saw: how many things were examined, and findings by what makes them the same again.

    A key holds what stays the same for as long as the thing lives, as a process's address and identity do.
    """

    examined: int = 0
    findings: dict[Hashable, Finding] = field(default_factory=dict)

    def add(self, key: Hashable, check: Check, what: str, where: str, severity: Severity = Severity.TAMPERED) -> None:
        """Add a finding."""
        self.findings[key] = Finding(check, what, where, severity)


def check_by_samples(
    check: Check, guest: Guest, sample: Callable[[], Sample], pause: Callable[[float], None] = time.sleep
) -> CheckResult:
    """Take one sample, and when it finds tampering further ones; the findings that all of them share.

    A structure that cannot be followed (a cycle, a pointer to nowhere) is a finding when no sample could follow it.
    """
    start = time.monotonic()
    waited = 0.0
    samples = [_taken(check, sample)]
    while len(samples) < SAMPLES and _tampered(samples):
        pause(PAUSE)
        waited += PAUSE
        guest.begin(budget=guest.budget)
        samples.append(_taken(check, sample))
    last = samples[-1]
    shared = [finding for key, finding in last.findings.items() if all(key in earlier.findings for earlier in samples)]
    return CheckResult(
        check=check,
        examined=max(taken.examined for taken in samples),
        milliseconds=(time.monotonic() - start - waited) * 1000,
        findings=_limited(check, shared),
    )


def _tampered(samples: list[Sample]) -> bool:
    """Whether there is tampering that all samples so far have shown."""
    return any(
        finding.severity is Severity.TAMPERED and all(key in other.findings for other in samples)
        for key, finding in samples[-1].findings.items()
    )


def _taken(check: Check, sample: Callable[[], Sample]) -> Sample:
    try:
        return sample()
    except Implausible as error:
        taken = Sample()
        taken.add("broken", check, f"the kernel's records cannot be followed: {error}", "kernel memory")
        return taken


def _limited(check: Check, findings: list[Finding]) -> tuple[Finding, ...]:
    if len(findings) <= MAX_FINDINGS:
        return tuple(findings)
    worst = sorted(findings, key=lambda finding: finding.severity is not Severity.TAMPERED)
    left = Finding(check, f"{len(findings) - MAX_FINDINGS} further findings", "see `vinci shell`", worst[0].severity)
    return (*worst[:MAX_FINDINGS], left)
