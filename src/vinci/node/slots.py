# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of the agent one user may hold: never all of it, and root is never kept out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

ROOT = 0


class Slots:
    """What each UID holds of something of which all users together may hold so much, and one of them less."""

    def __init__(self, what: str, each: int, together: int) -> None:
        self._what = what
        self._each = each
        self._together = together
        self._held: Counter[int] = Counter()

    def refusal(self, uid: int) -> str | None:
        """Why this UID may not have one more; None when it may. Root's are not counted."""
        if uid == ROOT:
            return None
        if self._held[uid] >= self._each:
            return f"UID {uid} has {self._each} {self._what} at the agent already: end one of them first"
        if self._held.total() >= self._together:
            return f"the agent serves {self._together} {self._what} already: try again"
        return None

    def take(self, uid: int) -> None:
        """Count one more."""
        if uid != ROOT:
            self._held[uid] += 1

    def give_back(self, uid: int) -> None:
        """Count one less; a UID that holds nothing is forgotten."""
        if uid != ROOT:
            self._held[uid] -= 1
            if not self._held[uid]:
                del self._held[uid]

    @contextmanager
    def held(self, uid: int) -> Iterator[None]:
        """One more for the length of the block."""
        self.take(uid)
        try:
            yield
        finally:
            self.give_back(uid)
