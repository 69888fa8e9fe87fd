# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the lattice and of every reference to a label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vinci.model.checks.facts import Facts, Finding, choice, error
from vinci.model.infrastructure import Label, LabelRef
from vinci.model.labels import LabelError, LabelFault
from vinci.model.problems import ModelPath


def check_labels(facts: Facts) -> Iterator[Finding]:
    """Levels and categories without repetition, named labels that resolve, references that exist."""
    if not facts.complete("labels"):
        return
    labels = facts.infrastructure.labels
    yield from _repeated(labels.levels, "levels")
    yield from _repeated(labels.categories, "categories")
    yield from _named(facts)
    yield from _circles(facts)
    for name, community in facts.infrastructure.communities.items():
        yield from _reference(facts, community.label, ("communities", name, "label"))
    for name, share in facts.infrastructure.shares.items():
        yield from _reference(facts, share.label, ("shares", name, "label"))


def _repeated(names: tuple[str, ...], key: str) -> Iterator[Finding]:
    seen: set[str] = set()
    for number, name in enumerate(names):
        if name in seen:
            yield error(("labels", key, number), f'"{name}" stands twice in {key}', "keep one of them")
        seen.add(name)


def _named(facts: Facts) -> Iterator[Finding]:
    labels = facts.infrastructure.labels
    for name, label in labels.named.items():
        path: ModelPath = ("labels", "named", name)
        if label.level is None and not label.includes:
            yield error(path, f'label "{name}": {LabelFault.NO_LEVEL}', "add `level: …` or `includes: […]`")
        yield from _parts(facts, label.level, label.categories, path)
        for number, included in enumerate(label.includes):
            if not facts.knows_label(included):
                right = choice(included, labels.named, "labels.named")
                yield error((*path, "includes", number), f'unknown label "{included}"', right)


def _circles(facts: Facts) -> Iterator[Finding]:
    """Each circle once, at the first label in the file that leads into it."""
    told: set[int] = set()
    for name in facts.infrastructure.labels.named:
        try:
            facts.lattice.resolve(name)
        except LabelError as fault:
            if fault.fault is LabelFault.CYCLE and id(fault) not in told:
                told.add(id(fault))  # the lattice keeps the one error of a circle for all labels that lead into it
                yield error(
                    ("labels", "named", name, "includes"),
                    f"labels include each other in a circle: {fault.name}",
                    "remove one of these `includes`",
                )


def _reference(facts: Facts, reference: LabelRef, path: ModelPath) -> Iterator[Finding]:
    labels = facts.infrastructure.labels
    if isinstance(reference, Label):
        yield from _parts(facts, reference.level, reference.categories, path)
    elif facts.knows_label(reference):
        return
    elif reference in labels.levels:
        yield error(path, f'"{reference}" is a level, not a label', f"write {{level: {reference}}}")
    else:
        yield error(path, f'unknown label "{reference}"', choice(reference, labels.named, "labels.named"))


def _parts(facts: Facts, level: str | None, categories: Iterable[str], path: ModelPath) -> Iterator[Finding]:
    labels = facts.infrastructure.labels
    if level is not None and level not in facts.lattice.levels:
        yield error((*path, "level"), f'unknown level "{level}"', choice(level, labels.levels, "labels.levels"))
    for category in sorted(categories):
        if category not in facts.lattice.categories:
            right = choice(category, labels.categories, "labels.categories")
            yield error((*path, "categories"), f'unknown category "{category}"', right)
