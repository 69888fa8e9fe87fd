# SPDX-License-Identifier: GPL-2.0-or-later
"""What reaches what: transitive closure of chosen hops by bit sets, and shortest paths."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from vinci.policy.graph import FlowGraph, Hop, Place

HopFilter = Callable[[Hop], bool]


def reachable(graph: FlowGraph, wanted: HopFilter) -> Mapping[Place, int]:
    """For each place the communities that its information reaches by wanted hops, itself included if it is one.

    The result is a bit set: bit i stands for `graph.communities[i]`. Strongly connected places share one set, so the
    time is linear in places and hops (times the length of a bit set).
    """
    return _gathered(
        graph,
        {
            place: tuple({graph.hops[number].target for number in numbers if wanted(graph.hops[number])})
            for place, numbers in graph.hops_from.items()
        },
    )


def reaching(graph: FlowGraph, wanted: HopFilter) -> Mapping[Place, int]:
    """For each place the communities whose information reaches it by wanted hops; otherwise as `reachable`."""
    return _gathered(
        graph,
        {
            place: tuple({graph.hops[number].source for number in numbers if wanted(graph.hops[number])})
            for place, numbers in graph.hops_to.items()
        },
    )


def _gathered(graph: FlowGraph, next_places: Mapping[Place, tuple[Place, ...]]) -> Mapping[Place, int]:
    bits = {place: 1 << number for number, place in enumerate(graph.communities)}
    reached: dict[Place, int] = {}
    for component in _components(next_places):  # each after all that it leads to
        together = 0
        for place in component:
            together |= bits.get(place, 0)
            for target in next_places[place]:
                together |= reached.get(target, 0)
        for place in component:
            reached[place] = together
    return reached


def _components(next_places: Mapping[Place, tuple[Place, ...]]) -> list[list[Place]]:
    """Strongly connected components, sinks first (Tarjan 1972, without recursion)."""
    order: dict[Place, int] = {}
    low: dict[Place, int] = {}
    stack: list[Place] = []
    on_stack: set[Place] = set()
    found: list[list[Place]] = []
    for root in next_places:
        if root in order:
            continue
        work = [(root, iter(next_places[root]))]
        order[root] = low[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        while work:
            place, targets = work[-1]
            for target in targets:
                if target not in order:
                    order[target] = low[target] = len(order)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(next_places[target])))
                    break
                if target in on_stack:
                    low[place] = min(low[place], order[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[place])
                if low[place] == order[place]:
                    component = _pop_until(stack, place)
                    on_stack.difference_update(component)
                    found.append(component)
    return found


def _pop_until(stack: list[Place], place: Place) -> list[Place]:
    component = [stack.pop()]
    while component[-1] != place:
        component.append(stack.pop())
    return component


def shortest_path(graph: FlowGraph, source: Place, target: Place, wanted: HopFilter) -> tuple[Hop, ...] | None:
    """The fewest wanted hops from `source` to `target`, the first in file order; None when there are none."""
    came_by: dict[Place, Hop | None] = {source: None}
    waiting = deque([source])
    while waiting:
        place = waiting.popleft()
        if place == target and place != source:
            return _backwards(came_by, target)
        for number in graph.hops_from[place]:
            hop = graph.hops[number]
            if hop.target not in came_by and wanted(hop):
                came_by[hop.target] = hop
                waiting.append(hop.target)
    return None


def _backwards(came_by: Mapping[Place, Hop | None], target: Place) -> tuple[Hop, ...]:
    path = []
    hop = came_by[target]
    while hop is not None:
        path.append(hop)
        hop = came_by[hop.source]
    return tuple(reversed(path))
