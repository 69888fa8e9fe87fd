# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads an infrastructure file: text, data with places, typed model, cross checks. All problems are told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vinci.model.checks.facts import Omitted
from vinci.model.complaints import complaints
from vinci.model.infrastructure import Infrastructure
from vinci.model.problems import DeclarationError, ModelPath, Problem
from vinci.model.source import MAX_BYTES, Document, Source, read_yaml
from vinci.model.validate import errors, validate

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
        raise DeclarationError(_all_problems(error, document)) from None
    problems = validate(infrastructure, document.source)
    if errors(problems):
        raise DeclarationError(problems)
    return Declaration(infrastructure, document.source, problems)


def _all_problems(error: ValidationError, document: Document) -> list[Problem]:
    """The malformed entries, and what the cross checks say of the others: nobody likes to learn of errors in turns."""
    problems = []
    for path, wrong, right in complaints(error, document.data):
        place = document.source.at(path)
        problems.append(Problem(place.file, place.line, place.column, wrong, right, path))
    rest, omitted = without_malformed(document.data, [problem.path for problem in problems])
    try:
        infrastructure = Infrastructure.model_validate(rest)
    except ValidationError:
        return problems
    return [*problems, *validate(infrastructure, document.source, omitted)]


def without_malformed(data: dict[str, object], malformed: list[ModelPath]) -> tuple[dict[str, object], Omitted]:
    """The data without the entries (a user, a share, a flow…) that hold a malformed value or key."""
    entries: dict[str | int, set[str | int]] = {}
    for path in malformed:
        if len(path) >= 2:
            entries.setdefault(path[0], set()).add(path[1])
    rest, names, kept = dict(data), {}, {}
    for section in entries:
        content, bad = data.get(str(section)), entries[section]
        if isinstance(content, dict):
            rest[str(section)] = {name: value for name, value in content.items() if name not in bad}
            names[str(section)] = frozenset(str(name) for name in bad)
        elif isinstance(content, list):
            kept[str(section)] = tuple(number for number in range(len(content)) if number not in bad)
            rest[str(section)] = [content[number] for number in kept[str(section)]]
    return rest, Omitted(names, kept)
