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
"""Sources that are told apart at once; those beyond share one bucket."""
TIDY_SECONDS = 1.0
_OTHERS = object()


@dataclass(slots=True)
class _Bucket:
    level: float
    since: float
    left_out: int = 0


@dataclass(slots=True)
class Budget:
    """Token buckets by source (a port and a reason, a client of a server, a UID).

    Pure: the time is given, in seconds of any monotonic clock.
    """

    burst: float = BURST
    refill: float = REFILL
    max_sources: int = MAX_SOURCES
    _buckets: dict[Hashable, _Bucket] = field(default_factory=dict)
    _tidied: float = float("-inf")

    def admit(self, source: Hashable, now: float) -> int | None:
        """None: leave this record out. Else how many were left out since the last one that was recorded."""
        bucket = self._bucket(source, now)
        bucket.level = self._level(bucket, now)
        bucket.since = now
        if bucket.level < 1:
            bucket.left_out += 1
            return None
        bucket.level -= 1
        left_out, bucket.left_out = bucket.left_out, 0
        return left_out

    def _bucket(self, source: Hashable, now: float) -> _Bucket:
        bucket = self._buckets.get(source)
        if bucket is not None:
            return bucket
        if len(self._buckets) >= self.max_sources - 1:
            self._tidy(now)
        if len(self._buckets) >= self.max_sources - 1:
            source = _OTHERS
        return self._buckets.setdefault(source, _Bucket(self.burst, now))

    def _tidy(self, now: float) -> None:
        """Forget the buckets that are as good as new."""
        if now - self._tidied >= TIDY_SECONDS:
            self._tidied = now
            full = [s for s, b in self._buckets.items() if not b.left_out and self._level(b, now) >= self.burst]
            for source in full:
                del self._buckets[source]

    def _level(self, bucket: _Bucket, now: float) -> float:
        return min(self.burst, bucket.level + (now - bucket.since) * self.refill)
