# SPDX-License-Identifier: GPL-2.0-or-later
"""The proof that a declaration has no leak: closure of the flow graph under the labels, and the way each leak takes.

Dominance is transitive, so information can only get from a high place to a lower or incomparable one by a path with a
hop that itself goes downward. The proof is therefore complete when every downward hop is found: it is trusted by the
file, with a reason, or it is a leak.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from vinci.model.infrastructure import Infrastructure
from vinci.model.problems import ModelPath, Problem
from vinci.model.services import resolve_service, service_name
from vinci.model.source import Position, Source
from vinci.policy.closure import HopFilter, reachable, shortest_path
from vinci.policy.graph import FlowGraph, Hop, HopKind, Place, PlaceKind, community, flow_graph


class Passage(StrEnum):
    """How information of one community gets to another."""

    NONE = "none"
    PERMITTED = "permitted"
    """Every hop goes to a label that dominates."""
    TRUSTED = "trusted"
    """Some hop goes down, and the file trusts it with a reason."""
    LEAK = "leak"
    """Some hop goes down, and nothing explains it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What to change in the file: the declarations to take away, and the same in words."""

    remove: tuple[ModelPath, ...]
    text: str
    alternative: str = ""


@dataclass(frozen=True, slots=True)
class Leak:
    """A declaration that lets information down without a reason.

    `hops` are its own downward hops; `way` is a whole way from a community to a community through the first of them;
    `change` is the smallest change of the file that closes it.
    """

    hops: tuple[Hop, ...]
    way: tuple[Hop, ...]
    change: Change


@dataclass(frozen=True, slots=True)
class Step:
    """A hop for people: a sentence, the labels at both ends, and the line of the file that opens it."""

    text: str
    source_label: str
    target_label: str
    downward: bool
    reason: str | None
    position: Position

    def __str__(self) -> str:
        direction = (
            "up" if not self.downward else f"DOWN, trusted: {self.reason}" if self.reason else "DOWN, unexplained"
        )
        if not self.downward and self.source_label == self.target_label:
            direction = "same label"
        return f"{self.position}: {self.text} [{self.source_label} -> {self.target_label}: {direction}]"


@dataclass(frozen=True)
class Analysis:
    """The verdict on a declaration: `leaks` is empty when it may be put in force."""

    graph: FlowGraph
    leaks: tuple[Leak, ...]
    trusted: tuple[Hop, ...]
    """Downward hops that the file explains."""

    @property
    def proved(self) -> bool:
        """True when no information gets down unexplained."""
        return not self.leaks

    def passage(self, source: str, target: str) -> Passage:
        """How information of community `source` gets to community `target`."""
        start, bit = community(source), self._bits[community(target)]
        for passage, (_, reached) in self._closures.items():
            if reached[start] & bit:
                return passage
        return Passage.NONE

    def way(self, source: str, target: str) -> tuple[Hop, ...]:
        """The shortest way of the best passage between two communities; empty when there is none."""
        passage = self.passage(source, target)
        if passage is Passage.NONE or source == target:
            return ()
        wanted = self._closures[passage][0]
        return shortest_path(self.graph, community(source), community(target), wanted) or ()

    def passages(self) -> Iterator[tuple[str, str, Passage]]:
        """Every ordered pair of different communities between which information passes."""
        places = self.graph.communities
        for start in places:
            told = 1 << places.index(start)
            for passage, (_, reached) in self._closures.items():
                new = reached[start] & ~told
                told |= new
                while new:
                    lowest = new & -new
                    yield start.name, places[lowest.bit_length() - 1].name, passage
                    new ^= lowest

    @cached_property
    def _bits(self) -> Mapping[Place, int]:
        return {place: 1 << number for number, place in enumerate(self.graph.communities)}

    @cached_property
    def _closures(self) -> Mapping[Passage, tuple[HopFilter, Mapping[Place, int]]]:
        """From the best passage to the worst; each closure contains the one before."""
        filters: dict[Passage, HopFilter] = {
            Passage.PERMITTED: lambda hop: not hop.downward,
            Passage.TRUSTED: lambda hop: not hop.leaks,
            Passage.LEAK: lambda _hop: True,
        }
        return {passage: (wanted, reachable(self.graph, wanted)) for passage, wanted in filters.items()}


def analyse(infrastructure: Infrastructure) -> Analysis:
    """The verdict on a declaration whose references resolve."""
    graph = flow_graph(infrastructure)
    leaking: dict[tuple[ModelPath, HopKind | None], list[Hop]] = {}
    for hop in graph.hops:
        if hop.leaks:
            leaking.setdefault(_declaration(hop), []).append(hop)
    leaks = tuple(Leak(tuple(hops), _whole_way(graph, hops[0]), _closing(graph, hops)) for hops in leaking.values())
    return Analysis(graph, leaks, tuple(hop for hop in graph.hops if hop.downward and hop.reason is not None))


def describe(graph: FlowGraph, hop: Hop, source: Source) -> Step:
    """A hop for people."""
    return Step(
        text=hop_text(graph.infrastructure, hop),
        source_label=graph.labels[hop.source].text,
        target_label=graph.labels[hop.target].text,
        downward=hop.downward,
        reason=hop.reason,
        position=source.at(hop.path),
    )


def leak_problems(analysis: Analysis, source: Source) -> tuple[Problem, ...]:
    """The leaks as what is wrong with the file: it is refused for them as for any other error."""
    problems = []
    for leak in analysis.leaks:
        at = source.at(leak.hops[0].path)
        way = "; ".join(str(describe(analysis.graph, hop, source)) for hop in leak.way)
        right = f"{leak.change.text}, or {leak.change.alternative}"
        problems.append(Problem(at.file, at.line, at.column, f"information gets down unexplained: {way}", right))
    return tuple(problems)


def hop_text(infrastructure: Infrastructure, hop: Hop) -> str:
    """One sentence on a hop: who does what."""
    if hop.kind in (HopKind.REQUEST, HopKind.ANSWER):
        service = resolve_service(infrastructure, infrastructure.flows[int(hop.via)].service)
        name = service_name(infrastructure, service)
        if hop.kind is HopKind.REQUEST:
            return f"{hop.source} sends requests to {name} of {hop.target}"
        return f"{hop.source} answers requests of {hop.target} to its {name}"
    if hop.kind is HopKind.PERSON:
        return f"{hop.via} is in {hop.source} and in {hop.target}"
    return f"{hop.via} may {hop.kind} {hop.target if hop.target.kind is PlaceKind.SHARE else hop.source}"


def _declaration(hop: Hop) -> tuple[ModelPath, HopKind | None]:
    """What has to change to close a hop: a user, a flow, or one operation of one grantee."""
    if hop.kind in (HopKind.PERSON, HopKind.REQUEST, HopKind.ANSWER):
        return hop.path[:2], None
    return hop.path, hop.kind


def _whole_way(graph: FlowGraph, hop: Hop) -> tuple[Hop, ...]:
    """From a community by `hop` to a community: who fills a share that leaks, who reads it.

    Where only such do for whom it would be no way down, the share itself is the end.
    """
    before = after = None
    if hop.source.kind is PlaceKind.SHARE:
        fillers = (graph.hops[number] for number in graph.hops_to[hop.source])
        before = next((filler for filler in fillers if _is_down(graph, filler.source, hop.target)), None)
    if hop.target.kind is PlaceKind.SHARE:
        readers = (graph.hops[number] for number in graph.hops_from[hop.target])
        after = next((reader for reader in readers if _is_down(graph, hop.source, reader.target)), None)
    return tuple(step for step in (before, hop, after) if step is not None)


def _is_down(graph: FlowGraph, start: Place, end: Place) -> bool:
    return not graph.labels[end].dominates(graph.labels[start])


def _closing(graph: FlowGraph, hops: list[Hop]) -> Change:
    hop = hops[0]
    if hop.kind is HopKind.PERSON:
        return _closing_person(graph, hop.via)
    if hop.kind in (HopKind.REQUEST, HopKind.ANSWER):
        flow = graph.infrastructure.flows[int(hop.via)]
        leads_up = _is_down(graph, community(flow.to), community(flow.source))
        up = "`upward: true`, " if leads_up and not flow.upward else ""
        trust = f"add {up}`trusted: true` and `reason: …` to the flow"
        if all(other.kind is HopKind.ANSWER for other in hops):
            trust += ", or make it `direction: one-way` with a udp service: then nothing comes back"
        return Change((hop.path,), f"remove the flow by which {hop_text(graph.infrastructure, hop)}", trust)
    share = hop.source if hop.source.kind is PlaceKind.SHARE else hop.target
    owner = hop.target if share is hop.source else hop.source
    alternative = f"add `trusted: {{communities: [{owner}], reason: …}}` to {share}, or change a label"
    return Change((hop.path,), f'take "{hop.kind}" on {share} from {hop.via}', alternative)


def _closing_person(graph: FlowGraph, user: str) -> Change:
    """Leave the largest group of communities with one label; the rest has to go."""
    groups: dict[tuple[int, frozenset[int]], list[str]] = {}
    for name in graph.infrastructure.users[user].communities:
        label = graph.labels[community(name)]
        groups.setdefault((label.level, label.categories), []).append(name)
    kept = max(groups.values(), key=len)
    leave = [name for names in groups.values() if names is not kept for name in names]
    return Change(
        tuple(("users", user, "communities", name) for name in leave),
        f"take {user} out of {' and '.join(leave)}",
        f"add `trusted: true` and `reason: …` to {user}",
    )
