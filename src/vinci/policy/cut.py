# SPDX-License-Identifier: GPL-2.0-or-later
"""The smallest change that separates two communities: a minimum cut of the flow graph."""

from __future__ import annotations

import networkx

from vinci.model.problems import ModelPath
from vinci.policy.closure import HopFilter
from vinci.policy.flows import Change, hop_text
from vinci.policy.graph import FlowGraph, Hop, community


def smallest_change(graph: FlowGraph, source: str, target: str, wanted: HopFilter) -> Change:
    """The fewest declarations without which no wanted way leads from one community to another.

    Ways between the same two places are counted by declaration; ties go to the cut nearest to `source`.
    """
    between: dict[tuple[object, object], list[Hop]] = {}
    for hop in graph.hops:
        if wanted(hop) and hop.source != hop.target:
            between.setdefault((hop.source, hop.target), []).append(hop)
    network = networkx.DiGraph()
    network.add_nodes_from([community(source), community(target)])
    for (start, end), hops in between.items():
        network.add_edge(start, end, capacity=len({hop.path for hop in hops}))
    _, (near, _far) = networkx.minimum_cut(network, community(source), community(target))
    cut = [hop for (start, end), hops in between.items() if start in near and end not in near for hop in hops]
    paths: dict[ModelPath, str] = {}
    for hop in cut:
        paths.setdefault(hop.path, hop_text(graph.infrastructure, hop))
    return Change(tuple(paths), "remove: " + "; ".join(paths.values()) if paths else "nothing to change")
