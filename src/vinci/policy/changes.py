# SPDX-License-Identifier: GPL-2.0-or-later
"""What a change of the file means for information: who gains or loses what, and which ways down it opens."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from vinci.model.ethertypes import ethertype_text
from vinci.model.infrastructure import Direction, Infrastructure, Peers
from vinci.model.labels import resolve_labels
from vinci.model.problems import ModelPath
from vinci.model.services import resolve_service, service_name
from vinci.policy.flows import analyse, hop_text
from vinci.policy.graph import FlowGraph, Hop, PlaceKind, flow_graph
from vinci.policy.ways_down import new_ways_down
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
        **_ethertypes(infrastructure),
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


def _ethertypes(infrastructure: Infrastructure) -> _Facts:
    return {
        ("ethertype", name, text): (
            f"APP-VMs of {name} can send each other ethertype {text}",
            f"APP-VMs of {name} can no longer send each other ethertype {text}",
            ("communities", name, "ethertypes"),
        )
        for name, community in infrastructure.communities.items()
        if community.app_vms.peers is Peers.ALL
        for text in map(ethertype_text, community.ethertypes)
    }


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


def _ways_down(old: Infrastructure | None, new: Infrastructure) -> Iterator[FlowChange]:
    """What comes down with its label, then new or wider hops that go down, then longer ways that are new."""
    before = analyse(old) if old is not None else None
    after = analyse(new)
    if before is not None:
        yield from _relabelled(before.graph, after.graph)
    ways = new_ways_down(before, after, MAX_WAYS)
    yield from (_opened(new, str(hop.source), str(hop.target), (hop,)) for hop in ways.fresh)
    yield from (_opened(new, way.source.name, way.target.name, way.hops) for way in ways.longer)
    if ways.more:
        more = f"information gets down between up to {ways.more} more pairs of communities"
        yield FlowChange(ChangeKind.OPENS_DOWNWARD, more, ())


def relabelled_shares(old: Infrastructure, new: Infrastructure, names: Container[str]) -> tuple[FlowChange, ...]:
    """The shares of these names whose contents come down with their label from what it was in `old`."""
    graphs = flow_graph(old), flow_graph(new)
    return tuple(change for change in _relabelled(*graphs) if change.path[0] == "shares" and change.path[1] in names)


def _relabelled(old: FlowGraph, new: FlowGraph) -> Iterator[FlowChange]:
    """Nobody moves anything, and yet it comes down: the file server gives what is stored the new label."""
    yield from _reordered(old.infrastructure.labels.levels, new.infrastructure.labels.levels)
    widening = Widening(old, new)
    for place, label in new.labels.items():
        if place.kind is PlaceKind.SHARE and place in old.labels and widening.is_lowered(place, place):
            text = f"contents of {place} are relabelled from {old.labels[place].text} to {label.text}"
            yield FlowChange(ChangeKind.OPENS_DOWNWARD, text, ("shares", place.name, "label"))


def _reordered(old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[FlowChange]:
    before, after = [level for level in old if level in new], [level for level in new if level in old]
    for was, level in zip(before, after, strict=True):
        if was != level:
            text = f"the levels stand in another order: {level} was above {was}, and is below it now"
            yield FlowChange(ChangeKind.OPENS_DOWNWARD, text, ("labels", "levels"))
            return


def _opened(new: Infrastructure, start: str, end: str, way: tuple[Hop, ...]) -> FlowChange:
    down = next(hop for hop in way if hop.downward)
    steps = "; ".join(hop_text(new, hop) for hop in way)
    why = f"trusted: {down.reason}" if down.reason else "unexplained"
    return FlowChange(
        ChangeKind.OPENS_DOWNWARD, f"information of {start} gets down to {end}: {steps} ({why})", down.path
    )
