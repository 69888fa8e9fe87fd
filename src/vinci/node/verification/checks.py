# SPDX-License-Identifier: GPL-2.0-or-later
"""One check: what the declaration expects beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a check is about."""

    FILES = "files"
    NETWORK = "network"
    MACHINES = "machines"
    TRUST = "trust"


class Measured(StrEnum):
    """What an attempt showed. UNKNOWN never matches an expectation."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One attempt: who tried what on which object."""

    kind: Kind
    subject: str
    target: str
    action: str
    expected: Measured
    measured: Measured
    reason: str = ""
    """Why nothing was measured; empty otherwise."""

    @property
    def matches(self) -> bool:
        """True when what is enforced is what was declared."""
        return self.expected is self.measured

    @property
    def name(self) -> str:
        """The attempt in words."""
        return f"{self.subject} {self.action} {self.target}"

    @property
    def message(self) -> str:
        """The attempt and how it ended, for a person."""
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.name}: declared {self.expected}, measured {self.measured}{why}"

    def as_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "kind": self.kind.value,
            "name": self.name,
            "subject": self.subject,
            "target": self.target,
            "action": self.action,
            "expected": self.expected.value,
            "measured": self.measured.value,
            "message": self.message,
        }


def yes_if(condition: bool) -> Measured:
    """YES or NO."""
    return Measured.YES if condition else Measured.NO
