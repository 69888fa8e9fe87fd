# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of a guest that goes on running: what one of them finds may only be the guest in the middle of a change.

Under a load of forks about a third of all samples of the lists of processes do not agree with each other. So a finding
counts when several samples, some time apart, show the same one. A guest in which every sample of several looks running
finds something, though never the same, is no clean one either: an attacker may move what he does faster than that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from vinci.introspect.findings import Check, CheckResult, Finding, Severity
from vinci.introspect.guest import Guest
from vinci.introspect.memory import Implausible

SAMPLES = 3
"""So many samples running have to share a finding."""
MOST_SAMPLES = 6
"""So many are taken when none is clean and none is shared."""
UNSETTLED_LOOKS = 4
"""So many looks running may end thus."""
PAUSE = 0.02
"""Seconds between two samples."""
MAX_FINDINGS = 100
"""More are only counted: a hostile guest could make any number."""


_KEPT = 10 * MAX_FINDINGS
"""Of one sample and one severity; whether there is tampering does not depend on more."""


@dataclass(slots=True)
class Sample:
    """What one pass over a guest saw: how many things were examined, and findings by what makes them the same again.

    A key holds what stays the same for as long as the thing lives, as a process's address and identity do; it names the
    place where there is one (a path's variable, a pointer's site), not the value there, which the guest chooses.
    """

    examined: int = 0
    findings: dict[Hashable, list[Finding]] = field(default_factory=dict)
    _count: Counter[Severity] = field(default_factory=Counter)

    def add(self, key: Hashable, check: Check, what: str, where: str, severity: Severity = Severity.TAMPERED) -> None:
        """Add a finding; several may share a key."""
        self._count[severity] += 1
        if self._count[severity] <= _KEPT:
            self.findings.setdefault(key, []).append(Finding(check, what, where, severity))

    def join(self, other: Sample) -> None:
        """Take over what another sample saw."""
        self.examined += other.examined
        for key, findings in other.findings.items():
            for found in findings:
                self.add(key, found.check, found.what, found.where, found.severity)

    @property
    def tampered(self) -> bool:
        """Whether it shows tampering."""
        return self._count[Severity.TAMPERED] > 0

    @property
    def full(self) -> bool:
        """Whether it has shown so much tampering that looking for more is of no use."""
        return self._count[Severity.TAMPERED] > MAX_FINDINGS


def check_by_samples(
    check: Check, guest: Guest, sample: Callable[[], Sample], pause: Callable[[float], None] = time.sleep
) -> CheckResult:
    """Take one sample, and when it finds tampering further ones; the findings that the last three of them share.

    A structure that cannot be followed (a cycle, a pointer to nowhere) is a finding when no sample could follow it.
    When neither a sample is clean nor three share a finding in several looks running, that is one.
    """
    start = time.monotonic()
    waited = 0.0
    samples = [_taken(check, sample)]
    while samples[-1].tampered and len(samples) < MOST_SAMPLES and not _settled(samples):
        pause(PAUSE)
        waited += PAUSE
        guest.begin(budget=guest.budget)
        samples.append(_taken(check, sample))
    if samples[-1].tampered and not _settled(samples):
        guest.unsettled[check] += 1
    else:
        del guest.unsettled[check]
    shared = _shared(samples[-SAMPLES:])
    if guest.unsettled[check] >= UNSETTLED_LOOKS:
        shared = [_unsettled(check), *_all(samples[-1])]
    return CheckResult(
        check=check,
        examined=max(taken.examined for taken in samples),
        milliseconds=(time.monotonic() - start - waited) * 1000,
        findings=_limited(check, shared),
    )


def _settled(samples: list[Sample]) -> bool:
    """Whether enough samples running show the same tampering."""
    enough = len(samples) >= SAMPLES
    return enough and any(finding.severity is Severity.TAMPERED for finding in _shared(samples[-SAMPLES:]))


def _shared(samples: list[Sample]) -> list[Finding]:
    """What the last of the samples finds and the others find as well."""
    last = samples[-1].findings
    return [finding for key in last if all(key in other.findings for other in samples) for finding in last[key]]


def _all(sample: Sample) -> list[Finding]:
    return [finding for same in sample.findings.values() for finding in same]


def _unsettled(check: Check) -> Finding:
    what = f"in {UNSETTLED_LOOKS} looks running every sample found tampering, though never the same for long"
    return Finding(check, what, "as the last sample shows beside this")


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
