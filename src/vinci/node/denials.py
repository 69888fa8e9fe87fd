# SPDX-License-Identifier: GPL-2.0-or-later
"""Denials on their way into the audit: each source of them has a budget, and what was left out is told."""

from __future__ import annotations

import time
from collections.abc import Callable

from vinci.node.audit import Audit, Event, Severity, Value
from vinci.node.budget import Budget


class Denials:
    """The denials of one kind of sources."""

    def __init__(self, audit: Audit, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._budget = Budget()

    def within(self, source: tuple[str, ...], whose: str, record: Callable[[], None]) -> None:
        """Call `record` within the budget of `source`, and tell before it how many were left out when it was used up.

        Args:
            source: whose budget it is; `whose` names it to a person.
        """
        left_out = self._budget.admit(source, self._clock())
        if left_out is None:
            return
        if left_out:
            self._audit.record(
                Event.RECORDS_LEFT_OUT,
                Severity.WARNING,
                f"{left_out} more denials of {whose} came too fast to be recorded",
                source=" ".join(source),
                number=left_out,
            )
        record()

    def record(
        self, source: tuple[str, ...], whose: str, event: Event, severity: Severity, message: str, **fields: Value
    ) -> None:
        """Record a denial within the budget of its source."""
        self.within(source, whose, lambda: self._audit.record(event, severity, message, **fields))
