# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the graph that the proof of flows is about has the hops that the artefacts permit: none missing, none more.

The proof is worth as much as its graph. So the same questions to policies and rules that are compared with the
declaration give hops, and those are compared with the graph's. People are no artefact's matter and left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from vinci.model.infrastructure import Infrastructure, Operation, Protocol
from vinci.model.services import resolve_service
from vinci.policy.graph import HopKind, PlaceKind, flow_graph

Crossing = tuple[HopKind, str, str, Protocol, int]
"""A request from a community to another's service, or the answer to one: the ends as information goes."""
_IMPLIED = {Operation.EXECUTE: {Operation.READ}, Operation.WRITE: {Operation.APPEND}}
_OPERATIONS = {HopKind(operation.value): operation for operation in Operation}


def files_unlike_graph(
    infrastructure: Infrastructure,
    shares: Collection[str],
    members: Collection[tuple[str, str]],
    able: Mapping[tuple[str, str], frozenset[Operation]],
) -> Iterator[str]:
    """What the graph says otherwise of shares.

    Args:
        infrastructure: the declaration.
        shares: those that were read back.
        members: the pairs (community, user) that have a subject.
        able: for (community, share), what some member can do.
    """
    graph: dict[tuple[str, str], frozenset[Operation]] = {}
    communities = {community for community, _ in members}
    for hop in flow_graph(infrastructure).hops:
        if hop.kind not in _OPERATIONS:
            continue
        tree, owner = (hop.source, hop.target) if hop.source.kind is PlaceKind.SHARE else (hop.target, hop.source)
        community, _, user = hop.via.partition(":")
        if tree.name not in shares or ((community, user) not in members if user else community not in communities):
            continue
        operation = _OPERATIONS[hop.kind]
        pair = (owner.name, tree.name)
        graph[pair] = graph.get(pair, frozenset()) | {operation, *_IMPLIED.get(operation, ())}
    for pair in sorted(graph.keys() | able.keys()):
        found, known = able.get(pair, frozenset()), graph.get(pair, frozenset())
        for operation in sorted(found ^ known):
            how = "no hop of the graph" if operation in found else "a hop of the graph, and not possible"
            yield f"{pair[0]} {operation} share {pair[1]} is {how}"


def packets_unlike_graph(
    infrastructure: Infrastructure, running: Collection[str | None], found: Collection[Crossing]
) -> Iterator[str]:
    """What the graph says otherwise of connections between `running`, the communities that have an APP-VM."""
    graph: set[Crossing] = set()
    for hop in flow_graph(infrastructure).hops:
        if hop.kind in (HopKind.REQUEST, HopKind.ANSWER) and {hop.source.name, hop.target.name} <= set(running):
            service = resolve_service(infrastructure, infrastructure.flows[int(hop.via)].service)
            graph.add((hop.kind, hop.source.name, hop.target.name, service.protocol, service.port))
    for crossing in sorted(graph ^ set(found)):
        kind, source, target, protocol, port = crossing
        how = "a hop of the graph, and does not pass" if crossing in graph else "no hop of the graph"
        yield f"{kind} of {protocol}/{port} from {source} to {target} is {how}"
