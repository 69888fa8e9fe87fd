# SPDX-License-Identifier: GPL-2.0-or-later
"""All the ways that information can pass in a declared infrastructure, as a graph of labelled places and hops.

A community is one place: its members share trust, and what one of them reads the others may learn. A share is a
place. A hop is one thing that the file permits, with the line that permits it: reading, writing or appending to a
share, the request and the answer of a connection, and a person who is in two communities.

Not in the graph, because no line of the file opens it: the A-VMs with their administrators, and the file servers,
who see everything (`vinci.policy.construction` lists them); covert channels (timing, load) between VMs of one node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from vinci.model.infrastructure import Direction, Infrastructure, Operation
from vinci.model.labels import PlannedLabel, resolve_labels
from vinci.model.problems import ModelPath


class PlaceKind(StrEnum):
    """Where information can be."""

    COMMUNITY = "community"
    SHARE = "share"


@dataclass(frozen=True, slots=True)
class Place:
    """A community or a share."""

    kind: PlaceKind
    name: str

    def __str__(self) -> str:
        return self.name if self.kind is PlaceKind.COMMUNITY else f"share {self.name}"


class HopKind(StrEnum):
    """How information gets from one place to the next."""

    READ = "read"
    EXECUTE = "execute"
    WRITE = "write"
    APPEND = "append"
    REQUEST = "request"
    ANSWER = "answer"
    PERSON = "person"


_TO_SHARE = (Operation.WRITE, Operation.APPEND)


@dataclass(frozen=True, slots=True)
class Hop:
    """One step that the file permits. `path` is the declaration that opens it."""

    source: Place
    target: Place
    kind: HopKind
    path: ModelPath
    downward: bool
    """True when the target's label does not dominate the source's."""
    reason: str | None
    """Why the file trusts this hop to go downward; None when it does not."""
    via: str
    """The grantee, the user, or the number of the flow as text."""

    @property
    def leaks(self) -> bool:
        """True when information may get here to a lower or incomparable label, and nobody is trusted to prevent it."""
        return self.downward and self.reason is None


@dataclass(frozen=True)
class FlowGraph:
    """Places with their labels, and hops. `hops_from` and `hops_to` hold indices into `hops`."""

    infrastructure: Infrastructure
    labels: Mapping[Place, PlannedLabel]
    hops: tuple[Hop, ...]
    hops_from: Mapping[Place, tuple[int, ...]]
    hops_to: Mapping[Place, tuple[int, ...]]

    @property
    def communities(self) -> tuple[Place, ...]:
        """The places that are communities, in file order."""
        return tuple(place for place in self.labels if place.kind is PlaceKind.COMMUNITY)


def community(name: str) -> Place:
    """The place of a community."""
    return Place(PlaceKind.COMMUNITY, name)


def share(name: str) -> Place:
    """The place of a share."""
    return Place(PlaceKind.SHARE, name)


def flow_graph(infrastructure: Infrastructure) -> FlowGraph:
    """The graph of a declaration whose references resolve. Linear in the size of the file."""
    resolve = resolve_labels(infrastructure)
    labels = {community(name): resolve(declared.label) for name, declared in infrastructure.communities.items()}
    labels.update({share(name): resolve(declared.label) for name, declared in infrastructure.shares.items()})
    hops = tuple(_hops(infrastructure, _Order(labels)))
    leaving: dict[Place, list[int]] = {place: [] for place in labels}
    arriving: dict[Place, list[int]] = {place: [] for place in labels}
    for number, hop in enumerate(hops):
        leaving[hop.source].append(number)
        arriving[hop.target].append(number)
    return FlowGraph(
        infrastructure,
        labels,
        hops,
        {place: tuple(numbers) for place, numbers in leaving.items()},
        {place: tuple(numbers) for place, numbers in arriving.items()},
    )


class _Order:
    """Dominance between places, each pair of labels compared once."""

    def __init__(self, labels: Mapping[Place, PlannedLabel]) -> None:
        numbers: dict[tuple[int, frozenset[int]], int] = {}
        self._labels: list[PlannedLabel] = []
        self._number: dict[Place, int] = {}
        for place, label in labels.items():
            number = numbers.setdefault((label.level, label.categories), len(numbers))
            if number == len(self._labels):
                self._labels.append(label)
            self._number[place] = number
        self._known: dict[tuple[int, int], bool] = {}

    def downward(self, source: Place, target: Place) -> bool:
        """True when `target` does not dominate `source`."""
        pair = (self._number[source], self._number[target])
        answer = self._known.get(pair)
        if answer is None:
            answer = self._known[pair] = not self._labels[pair[1]].dominates(self._labels[pair[0]])
        return answer


def _hops(infrastructure: Infrastructure, order: _Order) -> Iterator[Hop]:
    yield from _share_hops(infrastructure, order)
    yield from _connection_hops(infrastructure, order)
    yield from _person_hops(infrastructure, order)


def _share_hops(infrastructure: Infrastructure, order: _Order) -> Iterator[Hop]:
    for name, declared in infrastructure.shares.items():
        tree = share(name)
        for grantee, operations in declared.access.items():
            owner = grantee.partition(":")[0]
            place = community(owner)
            trusted = declared.trusted is not None and owner in declared.trusted.communities
            reason = declared.trusted.reason if trusted and declared.trusted else None
            path: ModelPath = ("shares", name, "access", grantee)
            for operation in dict.fromkeys(operations):
                source, target = (place, tree) if operation in _TO_SHARE else (tree, place)
                yield Hop(
                    source, target, HopKind(operation.value), path, order.downward(source, target), reason, grantee
                )


def _connection_hops(infrastructure: Infrastructure, order: _Order) -> Iterator[Hop]:
    for number, flow in enumerate(infrastructure.flows):
        source, target = community(flow.source), community(flow.to)
        path: ModelPath = ("flows", number)
        reason = flow.reason if flow.trusted else None
        yield Hop(source, target, HopKind.REQUEST, path, order.downward(source, target), reason, str(number))
        if flow.direction is Direction.BOTH:
            yield Hop(target, source, HopKind.ANSWER, path, order.downward(target, source), reason, str(number))


def _person_hops(infrastructure: Infrastructure, order: _Order) -> Iterator[Hop]:
    for name, user in infrastructure.users.items():
        if len(user.communities) == 1:
            continue
        places = [community(other) for other in user.communities]
        reason = user.reason if user.trusted else None
        for source in places:
            for target in places:
                if source is not target:
                    path: ModelPath = ("users", name, "communities", target.name)
                    yield Hop(source, target, HopKind.PERSON, path, order.downward(source, target), reason, name)
