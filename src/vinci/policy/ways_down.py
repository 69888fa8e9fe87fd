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

TRIES = 2000
"""Most searches for a way: one takes a millisecond in a big file, and not every pair has one."""


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
    search = _Search(new.graph, most)
    for hop in fresh:
        search.settle(hop.source, hop.target)
    for wanted in (_upward, _any):
        search.take(old, new, known, wanted)
    return WaysDown(fresh, tuple(search.found), search.more)


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


class _Search:
    """Finds a way for each new pair of communities: `found`, at most so many; `more` pairs were only counted."""

    def __init__(self, graph: FlowGraph, most: int) -> None:
        self.found: list[WayDown] = []
        self.more = 0
        self._graph, self._places, self._most, self._tries = graph, graph.communities, most, TRIES
        self._beneath = _Beneath(graph)
        self._settled: dict[Place, int] = {}
        self._counted: set[tuple[int, int]] = set()

    def settle(self, start: Place, end: Place) -> None:
        """This pair is told otherwise."""
        self._settled[start] = self._settled.get(start, 0) | self._beneath.bits.get(end, 0)

    def take(self, old: Analysis, new: Analysis, known: Mapping[Hop, tuple[Hop, ...]], wanted: HopFilter) -> None:
        """The pairs between which information newly passes a hop down on its way, by hops of a filter.

        Ways with no other hop down come first: where trusted hops make circles, all hops together connect everybody.
        A hop that is new itself is told as such: of it, only communities that were not connected at all matter.
        """
        bits, before, after = _Bits(old.graph, new.graph), _Carried(old.graph, wanted), _Carried(new.graph, wanted)
        for hop, same in known.items():
            sources, targets = after.into[hop.source], after.out_of[hop.target]
            rows = [(bits.low(before.into[each.source]), bits.high(before.out_of[each.target])) for each in same]
            if any(not sources & ~low and not targets & ~high for low, high in rows):
                continue
            if not same and (wanted is _upward or self._is_counted(sources, targets)):
                continue
            for start in _places(sources, self._places):
                ends = targets & self._beneath.of(start) & ~self._settled.get(start, 0)
                for low, high in rows if same else [(bits.low_of(start), bits.high(before.out_of.get(start, 0)))]:
                    if low & self._beneath.bits[start]:
                        ends &= ~high
                if ends:
                    self._tell(start, hop, ends, wanted)

    def _is_counted(self, sources: int, targets: int) -> bool:
        """True when all pairs of a new hop were counted with another one."""
        if not self._is_full():
            return False
        known = (sources, targets) in self._counted
        self._counted.add((sources, targets))
        return known

    def _is_full(self) -> bool:
        return len(self.found) >= self._most or not self._tries

    def _tell(self, start: Place, hop: Hop, ends: int, wanted: HopFilter) -> None:
        for end in _places(ends, self._places):
            if self._is_full():
                break
            self._tries -= 1
            way = _way_through(self._graph, start, hop, end, wanted)
            if way is not None:
                self.settle(start, end)
                self.found.append(WayDown(start, end, way))
            ends &= ~self._beneath.bits[end]
        self.more += ends.bit_count()
        self._settled[start] = self._settled.get(start, 0) | ends


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
