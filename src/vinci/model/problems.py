# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with an infrastructure file: where, what, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

ModelPath = tuple[str | int, ...]
"""The way to a value in the file: `("shares", "billing", "access", "doctors")`, `("flows", 0, "to")`."""

_SHOWN_VALUE = 60


class Severity(StrEnum):
    """Errors refuse the file; warnings are only told."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a file. `line` and `column` count from 1; `right` is what to write instead."""

    file: str
    line: int
    column: int
    wrong: str
    right: str
    path: ModelPath = ()
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        kind = "" if self.severity is Severity.ERROR else f"{self.severity}: "
        return f"{self.file}:{self.line}: {kind}{self.wrong}" + (f" ({self.right})" if self.right else "")


class DeclarationError(Exception):
    """A file that cannot be used. `problems` holds everything found, warnings too, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column)))
        super().__init__("\n".join(map(str, self.problems)))


def shown(value: object) -> str:
    """The value as a message may show it: one line, printable, at most 60 characters."""
    text = value if isinstance(value, str) else _literal(value)
    if len(text) > _SHOWN_VALUE:
        text = text[: _SHOWN_VALUE - 1] + "…"
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return f'"{text}"' if isinstance(value, str) else text


def _literal(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: …" for key in list(value)[:4]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(item if isinstance(item, str) else "…" for item in value[:6]) + "]"
    return str(value)
