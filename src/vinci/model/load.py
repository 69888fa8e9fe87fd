# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads an infrastructure file: text, data with places, typed model, cross checks. All problems are told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vinci.model.checks.facts import NAMED_LABELS, Omitted
from vinci.model.complaints import complaints, nearest
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
        raise DeclarationError([*document.problems, *_all_problems(error, document)]) from None
    problems = (*document.problems, *validate(infrastructure, document.source))
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
        infrastructure = Infrastructure.model_validate({**_STAND_INS, **rest})
    except ValidationError:
        return problems
    emptied: dict[str, object] = {section: {} for section in ("communities", "nodes") if section not in rest}
    infrastructure = infrastructure.model_copy(update=emptied)
    return [*problems, *validate(infrastructure, document.source, omitted)]


_STAND_INS: dict[str, object] = {
    **{"vinci": 1, "name": "name", "labels": {"levels": ["level"]}, "nodes": {"node": {}}},
    "communities": {"community": {"label": {"level": "level"}}},
}
"""What the model needs of a file that lacks it, or has it malformed; the checks take the section as left out."""


def without_malformed(data: dict[str, object], malformed: list[ModelPath]) -> tuple[dict[str, object], Omitted]:
    """The data without the entries (a user, a share, a flow…) that hold a malformed value or key.

    A section that is malformed itself, or of which nothing is left, is left out.
    """
    entries: dict[str, set[str | int]] = {}
    rest, names, kept = dict(data), {}, {}
    for path in malformed:
        if path[:2] == ("labels", "named") and len(path) > 2:
            entries.setdefault(NAMED_LABELS, set()).add(path[2])
        elif len(path) == 1 or path[:1] == ("labels",):
            rest.pop(str(path[0]), None)
        elif path:
            entries.setdefault(str(path[0]), set()).add(path[1])
    for section, bad in entries.items():
        if section == NAMED_LABELS:
            names[section] = frozenset(map(str, bad))
            if isinstance(labels := rest.get("labels"), dict):
                rest["labels"] = {**labels, "named": _without(labels["named"], bad)}
        elif isinstance(content := rest.get(section), dict):
            rest[section] = _without(content, bad)
            names[section] = frozenset(map(str, bad))
        elif isinstance(content, list):
            kept[section] = tuple(number for number in range(len(content)) if number not in bad)
            rest[section] = [content[number] for number in kept[section]]
    for section in ("communities", "nodes"):
        if rest.get(section) == {}:
            del rest[section]
    gone = {key for key in (*data, *_STAND_INS) if key not in rest}
    meant = {nearest(key, Infrastructure.model_fields) for key in gone - set(Infrastructure.model_fields)}
    return rest, Omitted(names, kept, frozenset(gone | {key for key in meant if key is not None and key not in data}))


def _without(content: dict[str, object], bad: set[str | int]) -> dict[str, object]:
    return {name: value for name, value in content.items() if name not in bad}
