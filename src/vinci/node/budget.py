# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of the audit one source may fill: a token bucket each, and the number of what was left out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

BURST = 200
"""Records at once."""
REFILL = 2.0
"""Records a second after that: a guest that never stops needs days to push everything else out of the audit's files."""
MAX_SOURCES = 20_000


@dataclass(slots=True)
class _Bucket:
    level: float
    since: float
    left_out: int = 0


@dataclass(slots=True)
class Budget:
    """Token buckets by source (a VM's port, a VM). Pure: the time is given, in seconds of any monotonic clock."""

    burst: float = BURST
    refill: float = REFILL
    _buckets: dict[Hashable, _Bucket] = field(default_factory=dict)

    def admit(self, source: Hashable, now: float) -> int | None:
        """None: leave this record out. Else how many were left out since the last one that was recorded."""
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= MAX_SOURCES:
                self._buckets.clear()
            bucket = self._buckets[source] = _Bucket(self.burst, now)
        bucket.level = min(self.burst, bucket.level + (now - bucket.since) * self.refill)
        bucket.since = now
        if bucket.level < 1:
            bucket.left_out += 1
            return None
        bucket.level -= 1
        left_out, bucket.left_out = bucket.left_out, 0
        return left_out
