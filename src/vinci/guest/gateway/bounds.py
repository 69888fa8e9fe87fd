# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounds: requests a second, connections at once, records a second. Safe for many threads."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic

from .protocol import Reason

RECORDS_PER_SECOND, RECORDS_BURST = 5, 20
"""Of each source."""
WHAT_CHARACTERS = 120
RECORD_PREFIX = "vinci-gw"
_ROUNDING = 1e-9  # seconds
_INFO = "<6>"  # the level, as /dev/kmsg takes it


class Budget:
    """A token bucket: so many a second, and `burst` at once.

    Kept as the time at which it will be full again, if nothing more is taken (the generic cell rate algorithm, ITU-T
    I.371 annex A): one number, and no more work for a request than needs be.
    """

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = monotonic) -> None:
        """Full at the beginning."""
        self._each = 1 / per_second
        self._empty = (burst - 1) / per_second + _ROUNDING
        self._clock, self._full_at = clock, clock()
        lock = Lock()
        self._enter, self._leave = lock.acquire, lock.release

    def take(self) -> bool:
        """Whether one more is within the bounds; if so, it is counted."""
        self._enter()
        try:
            now, full_at = self._clock(), self._full_at
            if full_at < now:
                full_at = now
            if full_at - now > self._empty:
                return False
            self._full_at = full_at + self._each
            return True
        finally:
            self._leave()


class Slots:
    """Connections at once: of all clients, and of each."""

    def __init__(self, most: int, most_each: int) -> None:
        """No connections at the beginning."""
        self._most, self._most_each = most, most_each
        self._used: dict[str, int] = {}
        self._lock = Lock()

    def take(self, client: str) -> bool:
        """Whether a client may have one more connection; if so, it has it until `give_back`."""
        with self._lock:
            used = self._used.get(client, 0)
            if used >= self._most_each or sum(self._used.values()) >= self._most:
                return False
            self._used[client] = used + 1
            return True

    def give_back(self, client: str) -> None:
        """End a connection that was taken."""
        with self._lock:
            self._used[client] -= 1
            if not self._used[client]:
                del self._used[client]


class _Records:
    """The records of one source: how many more it may have, and how many were lost since the last one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.budget = Budget(RECORDS_PER_SECOND, RECORDS_BURST, clock)
        self.lost = 0


class Recorder:
    """Writes a line per refusal, within bounds of each source; how many were not written is told by its next line.

    The packet rules let in a flow's sources only, so these are few.
    """

    def __init__(self, write: Callable[[bytes], object], flow: int, clock: Callable[[], float] = monotonic) -> None:
        """`write` takes one whole line; `flow` is the flow's place in the file."""
        self._write, self._flow, self._clock = write, flow, clock
        self._of: dict[str, _Records] = {}

    def record(self, reason: Reason, source: str, target: str, what: str) -> None:
        """Record one refusal. `what` is printable; a record that cannot be written is lost, and nothing else."""
        records = self._of.get(source) or self._of.setdefault(source, _Records(self._clock))
        if not records.budget.take():
            records.lost += 1
            return
        lost, records.lost = records.lost, 0
        line = f"{_INFO}{RECORD_PREFIX} {reason} flow={self._flow} source={source} target={target} lost={lost} "
        try:
            self._write(f"{line}what={what[:WHAT_CHARACTERS]}\n".encode("ascii", "replace"))
        except OSError:
            records.lost += lost + 1
