# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks the statements under `expect:` like tests: each holds, or fails with a counter-example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from vinci.model.infrastructure import Flow, Infrastructure, Operation
from vinci.model.inspection import HttpInspection, ModbusInspection
from vinci.model.labels import Lattice
from vinci.model.problems import ModelPath
from vinci.model.services import resolve_service, service_name
from vinci.model.source import Position, Source
from vinci.policy.access import IMPLIED, access
from vinci.policy.closure import HopFilter, shortest_path
from vinci.policy.flows import Analysis, Change, Step, describe
from vinci.policy.graph import FlowGraph, Hop, HopKind, PlaceKind, community
from vinci.policy.statements import (
    MayAccess,
    MayReach,
    Passes,
    Statement,
    StatementError,
    Subject,
    Way,
    WayKind,
    parse_statement,
)


class Outcome(StrEnum):
    """What came of a statement."""

    HOLDS = "holds"
    FAILS = "fails"
    DISABLED = "disabled"
    BROKEN = "broken"
    """It cannot be understood, or names things that the file does not have."""


@dataclass(frozen=True, slots=True)
class CounterExample:
    """Why a statement fails: a sentence, the lines that make it so, and the smallest change that mends it."""

    text: str
    steps: tuple[Step, ...] = ()
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """The outcome of one statement. `detail` is the error or the reason for its being disabled."""

    that: str
    reason: str
    outcome: Outcome
    position: Position
    detail: str = ""
    counter_examples: tuple[CounterExample, ...] = ()


def check_expectations(analysis: Analysis, source: Source) -> tuple[Expected, ...]:
    """The outcome of each statement of the file, in its order."""
    return tuple(_check(analysis, source, number) for number in range(len(analysis.graph.infrastructure.expect)))


def _check(analysis: Analysis, source: Source, number: int) -> Expected:
    declared = analysis.graph.infrastructure.expect[number]
    position = source.at(("expect", number, "that"))
    if declared.disable is not None:
        return Expected(declared.that, declared.reason, Outcome.DISABLED, position, declared.disable)
    try:
        found = tuple(counter_examples(analysis, source, declared.that))
    except StatementError as error:
        return Expected(declared.that, declared.reason, Outcome.BROKEN, position, f"{error} ({error.right})")
    outcome = Outcome.FAILS if found else Outcome.HOLDS
    return Expected(declared.that, declared.reason, outcome, position, counter_examples=found)


def counter_examples(analysis: Analysis, source: Source, text: str) -> Iterator[CounterExample]:
    """What contradicts a statement; nothing when it holds. Raises StatementError."""
    statement: Statement = parse_statement(analysis.graph.infrastructure, text)
    match statement:
        case MayAccess():
            return _Accesses(analysis.graph, source).contradicting(statement)
        case MayReach():
            return _connections(analysis.graph, source, statement)
        case Passes():
            return _passages(analysis.graph, source, statement)


class _Accesses:
    """Counter-examples to statements on shares."""

    def __init__(self, graph: FlowGraph, source: Source) -> None:
        self.graph = graph
        self.infrastructure = graph.infrastructure
        self.lattice = Lattice(graph.infrastructure.labels)
        self.source = source

    def contradicting(self, statement: MayAccess) -> Iterator[CounterExample]:
        for share in statement.shares:
            for operation in statement.operations:
                for subject in statement.subjects:
                    yield from (
                        self._can(subject, operation, share)
                        if statement.can
                        else self._cannot(subject, operation, share)
                    )
                if statement.only:
                    yield from self._others(statement.subjects, operation, share)

    def _can(self, subject: Subject, operation: Operation, share: str) -> Iterator[CounterExample]:
        answer = access(self.infrastructure, self.lattice, subject.community, subject.user, operation, share)
        if answer.allowed:
            return
        if answer.granted_by is None:
            path: ModelPath = ("shares", share, "access")
            yield CounterExample(f"{subject} cannot {operation} {share}: {self.source.at(path)} does not grant it")
        else:
            line = self.source.at(answer.granted_by)
            yield CounterExample(f"{subject} cannot {operation} {share}: the labels forbid what {line} grants")

    def _cannot(self, subject: Subject, operation: Operation, share: str) -> Iterator[CounterExample]:
        for grantee in self._grantees(operation, share):
            owner, _, user = grantee.partition(":")
            if owner == subject.community and (not user or subject.user in (None, user)):
                yield self._granted(grantee, operation, share)

    def _others(self, subjects: tuple[Subject, ...], operation: Operation, share: str) -> Iterator[CounterExample]:
        for grantee in self._grantees(operation, share):
            owner, _, user = grantee.partition(":")
            if Subject(owner) not in subjects and not (user and Subject(owner, user) in subjects):
                yield self._granted(grantee, operation, share)

    def _grantees(self, operation: Operation, share: str) -> Iterator[str]:
        """Those whom the file and the labels allow the operation."""
        enough = {operation, *IMPLIED.get(operation, ())}
        for grantee, operations in self.infrastructure.shares[share].access.items():
            owner, _, user = grantee.partition(":")
            if (
                enough.intersection(operations)
                and access(self.infrastructure, self.lattice, owner, user or None, operation, share).allowed
            ):
                yield grantee

    def _granted(self, grantee: str, operation: Operation, share: str) -> CounterExample:
        path: ModelPath = ("shares", share, "access", grantee)
        given = self.infrastructure.shares[share].access[grantee]
        enough = [other for other in given if other == operation or other in IMPLIED.get(operation, ())]
        change = Change((path,), f"take {', '.join(enough)} on share {share} from {grantee}")
        return CounterExample(f"{grantee} can {operation} {share}: {self.source.at(path)} grants it", change=change)


def _connections(graph: FlowGraph, source: Source, statement: MayReach) -> Iterator[CounterExample]:
    wanted = {resolve_service(graph.infrastructure, service) for service in statement.services}
    for target in statement.targets:
        for number, flow in enumerate(graph.infrastructure.flows):
            matches = not wanted or resolve_service(graph.infrastructure, flow.service) in wanted
            if flow.to != target or not matches:
                continue
            named = flow.source in statement.sources
            if (named and not statement.can) or (not named and statement.only):
                yield _opened(graph, source, flow, number)
        if statement.can:
            for name in statement.sources:
                yield from _missing(graph, name, target, statement.services)


def _opened(graph: FlowGraph, source: Source, flow: Flow, number: int) -> CounterExample:
    path: ModelPath = ("flows", number)
    service = service_name(graph.infrastructure, resolve_service(graph.infrastructure, flow.service))
    text = f"{flow.source} can reach {flow.to} by {service}: {source.at(path)} permits it"
    return CounterExample(text, change=Change((path,), "remove this flow"))


def _missing(graph: FlowGraph, name: str, target: str, services: tuple[str, ...]) -> Iterator[CounterExample]:
    if name == target:
        return
    there = {
        resolve_service(graph.infrastructure, flow.service)
        for flow in graph.infrastructure.flows
        if flow.source == name and flow.to == target
    }
    if not services and not there:
        yield CounterExample(f"{name} cannot reach {target}: no flow permits it")
    for service in services:
        if resolve_service(graph.infrastructure, service) not in there:
            yield CounterExample(f"{name} cannot reach {target} by {service}: no flow permits it")


def _passages(graph: FlowGraph, source: Source, statement: Passes) -> Iterator[CounterExample]:
    from vinci.policy.cut import smallest_change  # networkx takes .2 s to load, and most files have no failure

    ends = {*statement.sources, *statement.targets}
    for way in statement.ways:
        if way.kind is WayKind.COMMUNITY and way.name in ends:
            raise StatementError(f"{way.name} is an end of the way, not on it", f"leave {way.name} out")

    def other(hop: Hop) -> bool:
        return not any(_is_by(graph.infrastructure, hop, way) for way in statement.ways)

    for start in statement.sources:
        for end in statement.targets:
            if start == end:
                continue
            path = shortest_path(graph, community(start), community(end), other)
            if path is not None:
                steps = tuple(describe(graph, hop, source) for hop in path)
                text = f"{start} reaches {end} in {len(path)} step" + ("s" if len(path) > 1 else "")
                yield CounterExample(text, steps, smallest_change(graph, start, end, other))
            elif statement.must and not _reaches(graph, start, end, lambda _hop: True):
                yield CounterExample(f"nothing of {start} reaches {end} at all")


def _reaches(graph: FlowGraph, start: str, end: str, wanted: HopFilter) -> bool:
    return shortest_path(graph, community(start), community(end), wanted) is not None


def _is_by(infrastructure: Infrastructure, hop: Hop, way: Way) -> bool:
    """True when the hop passes by what the statement names."""
    places = (hop.source, hop.target)
    if way.kind is WayKind.USER:
        return hop.kind is HopKind.PERSON and hop.via == way.name
    if way.kind is WayKind.SERVICE:
        return hop.kind in (HopKind.REQUEST, HopKind.ANSWER) and _is_service(infrastructure, hop, way)
    kind = PlaceKind.SHARE if way.kind is WayKind.SHARE else PlaceKind.COMMUNITY
    return any(place.kind is kind and place.name == way.name for place in places)


def _is_service(infrastructure: Infrastructure, hop: Hop, way: Way) -> bool:
    flow = infrastructure.flows[int(hop.via)]
    if resolve_service(infrastructure, flow.service) != resolve_service(infrastructure, way.name):
        return False
    if not way.read_only:
        return True
    match flow.inspection:
        case ModbusInspection(functions=functions):
            return not any(function.writes for function in functions)
        case HttpInspection(methods=methods):
            return not any(method.writes for method in methods)
        case _:
            return False
