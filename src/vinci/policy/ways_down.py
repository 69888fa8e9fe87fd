# SPDX-License-Identifier: GPL-2.0-or-later
"""Which ways down a change of the file opens: hops that go down, and what hops that were there newly carry.

Every way down passes a hop that goes down. So a way is new when such a hop is new, or lets more through, or when a
community's information newly gets to it, or from it to another community. That is compared hop by hop, and not only
which communities are connected: a second way between two that were connected before may be a wider one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vinci.model.services import resolve_service
from vinci.policy.closure import HopFilter, reachable, reaching, shortest_path
from vinci.policy.flows import Analysis
from vinci.policy.graph import FlowGraph, Hop, HopKind, Place
from vinci.policy.widening import Widening


def _upward(hop: Hop) -> bool:
    return not hop.downward


def _any(_hop: Hop) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class WayDown:
    """A way from one place to another that does not dominate it."""

    source: Place
    target: Place
    hops: tuple[Hop, ...]


@dataclass(frozen=True, slots=True)
class WaysDown:
    """The new ways: hops that are new themselves, and longer ones. `more` counts those that were not looked for."""

    fresh: tuple[Hop, ...]
    longer: tuple[WayDown, ...]
    more: int


def new_ways_down(old: Analysis | None, new: Analysis, most: int) -> WaysDown:
    """The ways down of `new` that `old` has not, at most `most` longer ones. Without `old`, the hops say everything."""
    hops = [hop for hop in new.graph.hops if hop.downward]
    if old is None:
        return WaysDown(tuple(hops), (), 0)
    known = _known(old.graph, new.graph, hops)
    fresh = tuple(hop for hop in hops if not known[hop])
    told = {(hop.source, hop.target) for hop in fresh}
    longer: list[WayDown] = []
    candidates = _candidates(old, new, known)
    untold: set[tuple[Place, Place]] = set()
    for start, hop, end, wanted in candidates:
        pair = (start, end)
        if pair in told:
            continue
        if len(longer) >= most:
            untold.add(pair)
            continue
        way = _way_through(new.graph, start, hop, end, wanted)
        if way is not None:
            told.add(pair)
            longer.append(WayDown(start, end, way))
    return WaysDown(fresh, tuple(longer), len(untold - told))


def _known(old: FlowGraph, new: FlowGraph, hops: list[Hop]) -> Mapping[Hop, tuple[Hop, ...]]:
    """For each hop of the new file those of the old one that are the same and let no less through."""
    widening = Widening(old, new)
    before: dict[tuple[str, ...], list[Hop]] = {}
    for hop in old.hops:
        if hop.downward:
            before.setdefault(_identity(old, hop), []).append(hop)
    return {
        hop: tuple(each for each in before.get(_identity(new, hop), ()) if not widening.is_wider(hop, each))
        for hop in hops
    }


def _identity(graph: FlowGraph, hop: Hop) -> tuple[str, ...]:
    """What makes a hop the same one in two files: not its number."""
    via = hop.via
    if hop.kind in (HopKind.REQUEST, HopKind.ANSWER):
        service = resolve_service(graph.infrastructure, graph.infrastructure.flows[int(via)].service)
        via = f"{service.protocol}/{service.port}"
    return (hop.kind, str(hop.source), str(hop.target), via)


def _candidates(
    old: Analysis, new: Analysis, known: Mapping[Hop, tuple[Hop, ...]]
) -> Iterator[tuple[Place, Hop, Place, HopFilter]]:
    """(community, hop, community) that information newly passes downward in this order, by hops of a filter.

    Ways with no other hop down come first: where trusted hops make circles, everything reaches everything by all hops.
    A hop that is new itself is told as such: of it, only communities that were not connected at all are of interest.
    """
    places, beneath, bits = new.graph.communities, _Beneath(new.graph), _Bits(old.graph, new.graph)
    for wanted in (_upward, _any):
        before, after = _Carried(old.graph, wanted), _Carried(new.graph, wanted)
        for hop, same in known.items():
            if wanted is _upward and not same:
                continue
            sources, targets = after.into[hop.source], after.out_of[hop.target]
            rows = [(bits.low(before.into[each.source]), bits.high(before.out_of[each.target])) for each in same]
            if any(not sources & ~low and not targets & ~high for low, high in rows):
                continue
            for start in _places(sources, places):
                ends = targets & beneath.of(start)
                for low, high in rows if same else [(bits.low_of(start), bits.high(before.out_of.get(start, 0)))]:
                    if low & bits.bit[start]:
                        ends &= ~high
                for end in _places(ends, places):
                    yield start, hop, end, wanted


class _Carried:
    """For each place whose information gets there, and to whom its own gets, as bit sets of communities."""

    def __init__(self, graph: FlowGraph, wanted: HopFilter) -> None:
        self.into, self.out_of = reaching(graph, wanted), reachable(graph, wanted)


class _Bits:
    """Bit sets of an old graph's communities in the numbers of the new one.

    Communities whose label is higher than before, or lower, are left out on one side: what they passed on before is no
    measure of what they pass on now.
    """

    def __init__(self, old: FlowGraph, new: FlowGraph) -> None:
        self.bit = {place: 1 << number for number, place in enumerate(new.communities)}
        self._old = old.communities
        self._known = {0: 0}
        widening = Widening(old, new)
        both = [place for place in new.communities if place in old.labels]
        self._low = sum(self.bit[place] for place in both if not widening.is_raised(place, place))
        self._high = sum(self.bit[place] for place in both if not widening.is_lowered(place, place))

    def low(self, old: int) -> int:
        """Those of the set whose information has no higher label than before."""
        return self._today(old) & self._low

    def low_of(self, place: Place) -> int:
        """The same of one community."""
        return self.bit[place] & self._low

    def high(self, old: int) -> int:
        """Those of the set whose label has not come down."""
        return self._today(old) & self._high

    def _today(self, old: int) -> int:
        if old not in self._known:
            self._known[old] = sum(self.bit.get(place, 0) for place in _places(old, self._old))
        return self._known[old]


class _Beneath:
    """For each community those that do not dominate it."""

    def __init__(self, graph: FlowGraph) -> None:
        self.bits = {place: 1 << number for number, place in enumerate(graph.communities)}
        self._graph = graph
        self._known: dict[tuple[int, frozenset[int]], int] = {}

    def of(self, start: Place) -> int:
        """The set."""
        label = self._graph.labels[start]
        key = (label.level, label.categories)
        if key not in self._known:
            self._known[key] = sum(
                bit for place, bit in self.bits.items() if not self._graph.labels[place].dominates(label)
            )
        return self._known[key]


def _places(bits: int, places: tuple[Place, ...]) -> Iterator[Place]:
    while bits:
        lowest = bits & -bits
        yield places[lowest.bit_length() - 1]
        bits ^= lowest


def _way_through(graph: FlowGraph, start: Place, hop: Hop, end: Place, wanted: HopFilter) -> tuple[Hop, ...] | None:
    """The shortest way by a hop that does not pass its ends twice; None when there is none.

    Where it would, the shorter way between the same ends passes another hop down, and is told with that one.
    """
    if hop.source == end or hop.target == start:
        return None
    to_hop = _part(graph, start, hop.source, lambda each: wanted(each) and each.target != end)
    onward = _part(graph, hop.target, end, lambda each: wanted(each) and each.target != start)
    return None if to_hop is None or onward is None else (*to_hop, hop, *onward)


def _part(graph: FlowGraph, start: Place, end: Place, wanted: HopFilter) -> tuple[Hop, ...] | None:
    return () if start == end else shortest_path(graph, start, end, wanted)
