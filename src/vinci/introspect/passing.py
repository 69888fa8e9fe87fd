# SPDX-License-Identifier: GPL-2.0-or-later
"""States in which an honest guest is for a moment only: passed over at first, told when they last.

That a process is just being made or has just ended, or that a compiled program is just being freed, is the guest's
word. Who uses it to hide something has to say it at every look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

SECONDS = 3.0
"""Longer than a grace period of RCU in a VM that gets little of a processor."""
_MOST = 1 << 16


@dataclass(slots=True)
class _Seen:
    since: float
    look: int
    looks: int = 1


@dataclass(slots=True)
class Passing:
    """What of one guest was seen in such a state, and since when: in every look since then."""

    clock: Callable[[], float] = time.monotonic
    """Stands still while the guest does not get its processors: nothing passes in it then."""
    _look: int = 0
    _seen: dict[Hashable, _Seen] = field(default_factory=dict)

    def begin(self) -> None:
        """Begin another look: what the last one did not see has passed."""
        self._seen = {key: seen for key, seen in self._seen.items() if seen.look == self._look}
        self._look += 1

    def lasts(self, key: Hashable, looks: int = 2, seconds: float = SECONDS) -> bool:
        """See something; whether it was seen in so many looks running, and for longer than so many seconds."""
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) < _MOST:
                self._seen[key] = _Seen(self.clock(), self._look)
            return len(self._seen) >= _MOST
        if seen.look != self._look:
            seen.look, seen.looks = self._look, seen.looks + 1
        return seen.looks >= looks and self.clock() - seen.since > seconds
