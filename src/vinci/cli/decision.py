# SPDX-License-Identifier: GPL-2.0-or-later
"""What an explained record of the audit is made of, whoever decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vinci.model.load import Declaration
from vinci.model.problems import ModelPath
from vinci.policy.explain import Explanation, Ground

Record = Mapping[str, Any]
"""A record of the audit."""


class UnexplainedError(Exception):
    """What the record tells of cannot be explained: this version knows no such kind of record, or no such reason."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What decided (`rule`), where (`place`), and why."""

    place: str
    rule: str
    explanation: Explanation
    allowed: bool = False
    """True for a record of something that was permitted: then rule and place are those that let it through."""


def ground(declaration: Declaration, text: str, path: ModelPath | None, decides: bool = True) -> Ground:
    """A step of the reasoning with its line of the file, if there is one."""
    return Ground(text, declaration.source.at(path) if path is not None else None, decides)


def gone(question: str, text: str, change: str) -> Explanation:
    """What can be said where no line of the file speaks of it, or none does any more."""
    return Explanation(question, False, (Ground(text, None, True),), change)
