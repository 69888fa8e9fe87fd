# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads an infrastructure file: text, data with places, typed model, cross checks. All problems are told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vinci.model.complaints import complaints
from vinci.model.infrastructure import Infrastructure
from vinci.model.problems import DeclarationError, Problem
from vinci.model.source import MAX_BYTES, Source, read_yaml

__all__ = ["MAX_BYTES", "Declaration", "DeclarationError", "load", "parse"]


@dataclass(frozen=True, slots=True)
class Declaration:
    """A file that may be used: the typed model, the place of everything in it, and what is dubious about it."""

    infrastructure: Infrastructure
    source: Source
    warnings: tuple[Problem, ...] = ()


def load(path: Path | str) -> Declaration:
    """The declaration in the file at `path`.

    Raises DeclarationError with every problem found (also when the file cannot be read).
    """
    try:
        with Path(path).open("rb") as stream:
            untrusted_text = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problem = Problem(str(path), 1, 1, f"the file cannot be read: {reason}", "name a readable file")
        raise DeclarationError([problem]) from None
    return parse(untrusted_text, str(path))


def parse(untrusted_text: bytes, file: str = "infrastructure.yaml") -> Declaration:
    """The declaration in a text; `file` is the name that messages give it. Raises DeclarationError."""
    document = read_yaml(file, untrusted_text)
    try:
        infrastructure = Infrastructure.model_validate(document.data)
    except ValidationError as error:
        raise DeclarationError(_problems(error, document.data, document.source)) from None
    return Declaration(infrastructure, document.source)


def _problems(error: ValidationError, data: object, source: Source) -> list[Problem]:
    problems = []
    for path, wrong, right in complaints(error, data):
        position = source.at(path)
        problems.append(Problem(position.file, position.line, position.column, wrong, right, path))
    return problems
