# SPDX-License-Identifier: GPL-2.0-or-later
"""What a change of the file means for information: who gains or loses what, and which ways down it opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from vinci.model.infrastructure import Direction, Infrastructure
from vinci.model.labels import resolve_labels
from vinci.model.problems import ModelPath
from vinci.model.services import resolve_service, service_name
from vinci.policy.flows import Analysis, Passage, analyse, hop_text
from vinci.policy.graph import Hop, HopKind
from vinci.policy.widening import Widening

MAX_WAYS = 100
"""Most longer ways that are told one by one."""


class ChangeKind(StrEnum):
    """Whether something becomes possible, stops being possible, or opens a way down."""

    LOSES = "loses"
    GAINS = "gains"
    OPENS_DOWNWARD = "opens downward"


@dataclass(frozen=True, slots=True)
class FlowChange:
    """One change in words. `path` is the declaration, in the new file for gains and in the old one for losses."""

    kind: ChangeKind
    text: str
    path: ModelPath


_Facts = Mapping[tuple[str, ...], tuple[str, str, ModelPath]]
"""Something that is possible -> (sentence when it begins, sentence when it ends, its declaration)."""


def flow_changes(old: Infrastructure | None, new: Infrastructure) -> tuple[FlowChange, ...]:
    """What the change from `old` (None: nothing was in force) to `new` does: losses, gains, then ways down."""
    before = _facts(old) if old is not None else {}
    after = _facts(new)
    losses = [FlowChange(ChangeKind.LOSES, ends, path) for key, (_, ends, path) in before.items() if key not in after]
    gains = [
        FlowChange(ChangeKind.GAINS, begins, path) for key, (begins, _, path) in after.items() if key not in before
    ]
    return (*losses, *gains, *_ways_down(old, new))


def _facts(infrastructure: Infrastructure) -> _Facts:
    return {
        **_accesses(infrastructure),
        **_connections(infrastructure),
        **_people(infrastructure),
        **_labels(infrastructure),
    }


def _accesses(infrastructure: Infrastructure) -> _Facts:
    return {
        ("access", grantee, operation, share): (
            f"{grantee} gains {operation} on {share}",
            f"{grantee} loses {operation} on {share}",
            ("shares", share, "access", grantee),
        )
        for share, declared in infrastructure.shares.items()
        for grantee, operations in declared.access.items()
        for operation in operations
    }


def _connections(infrastructure: Infrastructure) -> _Facts:
    facts: dict[tuple[str, ...], tuple[str, str, ModelPath]] = {}
    for number, flow in enumerate(infrastructure.flows):
        service = resolve_service(infrastructure, flow.service)
        name = service_name(infrastructure, service)
        how = " one-way" if flow.direction is Direction.ONE_WAY else ""
        what = f"{name} of {flow.to}{how}"
        inspected = flow.inspection.model_dump_json() if flow.inspection else ""
        facts[("flow", flow.source, flow.to, service.protocol, str(service.port), flow.direction, inspected)] = (
            f"{flow.source} can reach {what}{_through(flow.inspection is not None)}",
            f"{flow.source} can no longer reach {what}{_through(flow.inspection is not None)}",
            ("flows", number),
        )
    return facts


def _through(inspected: bool) -> str:
    return " through a gateway" if inspected else ""


def _people(infrastructure: Infrastructure) -> _Facts:
    return {
        ("member", user, community): (
            f"{user} joins {community}",
            f"{user} leaves {community}",
            ("users", user, "communities", community),
        )
        for user, declared in infrastructure.users.items()
        for community in declared.communities
    }


def _labels(infrastructure: Infrastructure) -> _Facts:
    resolve = resolve_labels(infrastructure)
    return {
        (section, name, label.text): (
            f"{title}{name} has the label {label.text}",
            f"{title}{name} no longer has the label {label.text}",
            (section, name, "label"),
        )
        for section, title, entries in (
            ("communities", "", infrastructure.communities),
            ("shares", "share ", infrastructure.shares),
        )
        for name, label in ((name, resolve(entry.label)) for name, entry in entries.items())
    }


def _ways_down(old: Infrastructure | None, new: Infrastructure) -> list[FlowChange]:
    """New or wider hops that go down, then pairs of communities between which information newly gets down otherwise.

    Where nothing was in force, the hops say everything.
    """
    before = analyse(old) if old is not None else None
    after = analyse(new)
    fresh = _fresh(before, after)
    changes = [_opened(new, str(hop.source), str(hop.target), (hop,)) for hop in fresh]
    told = {(hop.source.name, hop.target.name) for hop in fresh}
    longer = sorted(_downward(after) - _downward(before) - told) if before else []
    for start, end in longer[:MAX_WAYS]:
        changes.append(_opened(new, start, end, after.way(start, end)))
    if len(longer) > MAX_WAYS:
        more = f"information gets down between {len(longer) - MAX_WAYS} more pairs of communities"
        changes.append(FlowChange(ChangeKind.OPENS_DOWNWARD, more, ()))
    return changes


def _fresh(before: Analysis | None, after: Analysis) -> list[Hop]:
    """Downward hops that were not there, or let less through: from lower labels, to higher ones, more inspected."""
    if before is None:
        return list(_down_hops(after))
    known: dict[tuple[str, ...], list[Hop]] = {}
    for hop in _down_hops(before):
        known.setdefault(_identity(before.graph.infrastructure, hop), []).append(hop)
    widening, new = Widening(before.graph, after.graph), after.graph.infrastructure
    return [
        hop
        for hop in _down_hops(after)
        if all(widening.is_wider(hop, each) for each in known.get(_identity(new, hop), ()))
    ]


def _opened(new: Infrastructure, start: str, end: str, way: tuple[Hop, ...]) -> FlowChange:
    down = next(hop for hop in way if hop.downward)
    steps = "; ".join(hop_text(new, hop) for hop in way)
    why = f"trusted: {down.reason}" if down.reason else "unexplained"
    return FlowChange(
        ChangeKind.OPENS_DOWNWARD, f"information of {start} gets down to {end}: {steps} ({why})", down.path
    )


def _down_hops(analysis: Analysis) -> tuple[Hop, ...]:
    return tuple(hop for hop in analysis.graph.hops if hop.downward)


def _identity(infrastructure: Infrastructure, hop: Hop) -> tuple[str, ...]:
    """What makes a hop the same one in two files: not its number."""
    via = hop.via
    if hop.kind in (HopKind.REQUEST, HopKind.ANSWER):
        service = resolve_service(infrastructure, infrastructure.flows[int(via)].service)
        via = f"{service.protocol}/{service.port}"
    return (hop.kind, str(hop.source), str(hop.target), via)


def _downward(analysis: Analysis) -> frozenset[tuple[str, str]]:
    """Pairs whose best passage goes down somewhere, to a community that does not dominate the first."""
    labels = {place.name: analysis.graph.labels[place] for place in analysis.graph.communities}
    return frozenset(
        (start, end)
        for start, end, passage in analysis.passages()
        if passage is not Passage.PERMITTED and not labels[end].dominates(labels[start])
    )
