# SPDX-License-Identifier: GPL-2.0-or-later
"""What all cross checks need, derived once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from vinci.model.complaints import nearest
from vinci.model.infrastructure import MIN_REASON, Flow, Infrastructure, LabelRef, LoginRule
from vinci.model.labels import LabelError, Lattice, PlannedLabel
from vinci.model.machines import members_of
from vinci.model.problems import ModelPath, Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem by its path in the model; its place in the file is looked up later."""

    path: ModelPath
    wrong: str
    right: str
    severity: Severity = Severity.ERROR


def error(path: ModelPath, wrong: str, right: str) -> Finding:
    """A finding that refuses the file."""
    return Finding(path, wrong, right)


def warning(path: ModelPath, wrong: str, right: str) -> Finding:
    """A finding that is only told."""
    return Finding(path, wrong, right, Severity.WARNING)


NAMED_LABELS = "labels.named"
"""The section of the named labels, which lies in another one."""


@dataclass(frozen=True, slots=True)
class Omitted:
    """Entries that were left out because they are malformed: references to them are not the reference's fault."""

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Section -> names."""
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Section that is a list -> the numbers in the file of the items that were kept."""
    sections: frozenset[str] = frozenset()
    """Sections that were left out whole; the model has a default or nothing in their place."""

    def number(self, section: str, index: int) -> int:
        """The number in the file of the kept item `index`."""
        return self.kept[section][index] if section in self.kept else index


@dataclass(frozen=True)
class Facts:
    """A declaration and what is derived from it."""

    infrastructure: Infrastructure
    omitted: Omitted = Omitted()

    @cached_property
    def lattice(self) -> Lattice:
        """Levels, categories and named labels."""
        return Lattice(self.infrastructure.labels)

    @cached_property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """Community -> its users."""
        return members_of(self.infrastructure)

    @cached_property
    def labels(self) -> Mapping[str, PlannedLabel]:
        """Community -> its label; those whose label does not resolve are missing."""
        found = ((name, self.label(community.label)) for name, community in self.infrastructure.communities.items())
        return {name: label for name, label in found if label is not None}

    def label(self, reference: LabelRef) -> PlannedLabel | None:
        """The label, or None when it does not resolve (which another check tells)."""
        if not self.complete("labels"):
            return None
        try:
            return self.lattice.resolve(reference)
        except LabelError:
            return None

    def knows(self, section: str, name: str) -> bool:
        """True when the file has this entry, well-formed or not."""
        declared: Mapping[str, object] = getattr(self.infrastructure, section)
        return name in declared or name in self.omitted.names.get(section, ()) or section in self.omitted.sections

    def knows_label(self, name: str) -> bool:
        """True when the file has this named label, well-formed or not."""
        return name in self.infrastructure.labels.named or name in self.omitted.names.get(NAMED_LABELS, ())

    def complete(self, section: str) -> bool:
        """True when nothing of the section was left out."""
        return not self.omitted.names.get(section) and section not in self.omitted.sections

    def unknown(self, section: str, name: str, path: ModelPath, what: str) -> Iterator[Finding]:
        """A finding when the file has no such entry."""
        if not self.knows(section, name):
            declared: Mapping[str, object] = getattr(self.infrastructure, section)
            yield error(path, f'unknown {what} "{name}"', choice(name, declared, section))

    def flows(self) -> Iterator[tuple[int, Flow]]:
        """The flows with their numbers in the file."""
        for index, flow in enumerate(self.infrastructure.flows):
            yield self.omitted.number("flows", index), flow

    def login_rules(self) -> Iterator[tuple[int, LoginRule]]:
        """The login rules with their numbers in the file."""
        for index, rule in enumerate(self.infrastructure.login):
            yield self.omitted.number("login", index), rule


def is_reason(text: str) -> bool:
    """True when a text is long enough to say why; blanks say nothing."""
    return len(text.strip()) >= MIN_REASON


def no_reason(text: str, path: ModelPath, key: str, what: str) -> Finding:
    """What `path` declares by `key` lacks a reason, or has one that says too little."""
    if text.strip():
        return error((*path, "reason"), f"{what}, and its reason is too short", f"at least {MIN_REASON} characters")
    return error((*path, key), f"{what} without a reason", "add `reason: …`")


def choice(name: str, known: Iterable[str], section: str) -> str:
    """What to write instead of an unknown name."""
    names = list(known)
    close = nearest(name, names[:2000])
    if close:
        return f'did you mean "{close}"?'
    if not names:
        return f"declare it under `{section}`"
    return f"`{section}` has " + ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
