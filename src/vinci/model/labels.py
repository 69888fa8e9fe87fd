# SPDX-License-Identifier: GPL-2.0-or-later
"""Labels with their numbers, and the order among them (Bell and LaPadula 1973)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from vinci.model.infrastructure import Infrastructure, Label, LabelRef, Labels, NamedLabel, Operation


@dataclass(frozen=True, slots=True)
class PlannedLabel:
    """A label with its numbers: level 0 is the lowest; categories by their index in the file."""

    level: int
    categories: frozenset[int]
    text: str

    def dominates(self, other: PlannedLabel) -> bool:
        """True when information with label `other` may be read under this one (Bell and LaPadula 1973)."""
        return self.level >= other.level and self.categories >= other.categories

    def equals(self, other: PlannedLabel) -> bool:
        """True when both stand at the same place of the lattice, however they are written."""
        return self.level == other.level and self.categories == other.categories

    @property
    def mls(self) -> str:
        """The SELinux spelling, `s1:c0,c2`."""
        cats = ",".join(f"c{number}" for number in sorted(self.categories))
        return f"s{self.level}:{cats}" if cats else f"s{self.level}"


_SHOWN_CIRCLE = 8


class LabelFault(StrEnum):
    """What can be wrong with a label."""

    NO_LEVEL = "it has neither a level nor included labels"
    UNKNOWN_LEVEL = "unknown level"
    UNKNOWN_CATEGORY = "unknown category"
    UNKNOWN_LABEL = "unknown label"
    CYCLE = "labels include each other in a circle"


class LabelError(ValueError):
    """A label that does not resolve: `fault`, and the `name` of the level, category, label or circle it is about."""

    def __init__(self, fault: LabelFault, name: str) -> None:
        super().__init__(f"{fault}: {name}")
        self.fault = fault
        self.name = name


class Lattice:
    """The levels, categories and named labels of a file, ready to resolve references.

    `levels` and `categories` map names to their numbers.
    """

    def __init__(self, labels: Labels) -> None:
        self._declared = labels
        self.levels = {name: number for number, name in enumerate(labels.levels)}
        self.categories = {name: number for number, name in enumerate(labels.categories)}
        self._named: dict[str, PlannedLabel] = {}
        self._faults: dict[str, LabelError] = {}

    def resolve(self, reference: LabelRef) -> PlannedLabel:
        """The label that `reference` means. Raises LabelError."""
        if isinstance(reference, Label):
            return self._number(self._level(reference.level), self._category_numbers(reference.categories))
        if reference not in self._named:
            if reference in self._faults:
                raise self._faults[reference].with_traceback(None)
            name = reference
            try:
                for name in self._in_order_of_inclusion(reference):
                    self._named[name] = self._resolve_named(name, self._declared.named[name])
            except LabelError as fault:
                self._faults[reference] = self._faults[name] = fault
                raise
        return self._named[reference]

    def _in_order_of_inclusion(self, wanted: str) -> Iterator[str]:
        """The unresolved labels that `wanted` needs, included ones first; without recursion, chains may be long."""
        path: list[tuple[str, Iterator[str]]] = []
        open_names: dict[str, None] = {}
        done: set[str] = set()

        def enter(name: str) -> None:
            fault = self._faults.get(name)
            if name not in self._declared.named:
                fault = LabelError(LabelFault.UNKNOWN_LABEL, name)
            if fault is not None:
                self._faults.update(dict.fromkeys(open_names, fault))  # all that include it fail with it
                raise fault.with_traceback(None)
            open_names[name] = None
            path.append((name, iter(self._declared.named[name].includes)))

        enter(wanted)
        while path:
            name, includes = path[-1]
            included = next(includes, None)
            if included is None:
                path.pop()
                del open_names[name]
                done.add(name)
                yield name
            elif included in open_names:
                names = list(open_names)
                circle = [*names[names.index(included) :], included]
                if len(circle) > _SHOWN_CIRCLE:
                    circle[_SHOWN_CIRCLE // 2 : -_SHOWN_CIRCLE // 2] = ["…"]
                fault = LabelError(LabelFault.CYCLE, " -> ".join(circle))
                self._faults.update(dict.fromkeys(names, fault))
                raise fault
            elif included not in self._named and included not in done:
                enter(included)

    def _resolve_named(self, name: str, declared: NamedLabel) -> PlannedLabel:
        if declared.level is None and not declared.includes:
            raise LabelError(LabelFault.NO_LEVEL, name)
        own = self._level(declared.level) if declared.level is not None else 0
        included = [self._named[other] for other in declared.includes]
        categories = self._category_numbers(declared.categories).union(*(label.categories for label in included))
        return self._number(max([own, *(label.level for label in included)]), categories)

    def _level(self, name: str) -> int:
        if name not in self.levels:
            raise LabelError(LabelFault.UNKNOWN_LEVEL, name)
        return self.levels[name]

    def _category_numbers(self, names: frozenset[str]) -> frozenset[int]:
        for name in sorted(names):
            if name not in self.categories:
                raise LabelError(LabelFault.UNKNOWN_CATEGORY, name)
        return frozenset(self.categories[name] for name in names)

    def _number(self, level: int, categories: frozenset[int]) -> PlannedLabel:
        names = ", ".join(self._declared.categories[number] for number in sorted(categories))
        text = self._declared.levels[level] + (f" {{{names}}}" if names else "")
        return PlannedLabel(level, categories, text)


def resolve_labels(infrastructure: Infrastructure) -> Callable[[LabelRef], PlannedLabel]:
    """A function from label references of this file to labels with numbers. It raises LabelError."""
    return Lattice(infrastructure.labels).resolve


RULES = {
    Operation.READ: "reading needs a label that dominates the share's",
    Operation.EXECUTE: "executing needs a label that dominates the share's",
    Operation.WRITE: "writing needs a label equal to the share's",
    Operation.APPEND: "appending needs a label that the share's dominates",
}
"""Bell and LaPadula's rules in words; append is their blind write up."""


def permitted(operation: Operation, subject: PlannedLabel, share: PlannedLabel) -> bool:
    """True when the labels alone allow the operation: no read up, no write down."""
    if operation in (Operation.READ, Operation.EXECUTE):
        return subject.dominates(share)
    if operation is Operation.WRITE:
        return subject.equals(share)
    return share.dominates(subject)
