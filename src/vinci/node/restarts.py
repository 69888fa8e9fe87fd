# SPDX-License-Identifier: GPL-2.0-or-later
"""When a VM that ended by itself is started again: at once, and ever later when it ends soon after each start."""

from __future__ import annotations

from dataclasses import dataclass, field

SOON_SECONDS = 120.0
"""A VM that ran this long ran well: its next end counts as the first."""
FIRST_DELAY_SECONDS = 5.0
MAX_DELAY_SECONDS = 300.0


@dataclass(slots=True)
class Restarts:
    """The ends of VMs nobody asked for. Pure: the time is given, in seconds of any monotonic clock."""

    _started: dict[str, float] = field(default_factory=dict)
    _ends: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)

    def started(self, vm: str, now: float) -> None:
        """Note a start."""
        self._started[vm] = now

    def ended(self, vm: str, now: float) -> float:
        """Note an end that nobody asked for; the seconds until the VM is started again, 0 for a first one."""
        soon = now - self._started.get(vm, now) < SOON_SECONDS
        ends = self._ends[vm] = self._ends.get(vm, 0) + 1 if soon else 1
        delay = 0.0 if ends < 3 else min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(ends - 3, 16))
        self._not_before[vm] = now + delay
        return delay

    def wait(self, vm: str, now: float) -> float:
        """Seconds that a VM's start has to wait still; 0 when it may start."""
        return max(0.0, self._not_before.get(vm, now) - now)

    def forgive(self) -> None:
        """An administrator asks for a new start: nothing waits any more."""
        self._not_before.clear()
        self._ends.clear()
