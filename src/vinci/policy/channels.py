# SPDX-License-Identifier: GPL-2.0-or-later
"""Channels that declared lines open beside the graph: names, sizes and times of a share that several append to."""

from __future__ import annotations

from dataclasses import dataclass

from vinci.model.problems import ModelPath
from vinci.policy.graph import FlowGraph, HopKind, PlaceKind

_CHANGING = (HopKind.WRITE, HopKind.APPEND)


@dataclass(frozen=True, slots=True)
class SizeChannel:
    """A share to which `seeing` may append, and which `seen`, whom they do not dominate, change too."""

    share: str
    seeing: tuple[str, ...]
    seen: tuple[str, ...]
    path: ModelPath

    def __str__(self) -> str:
        return (
            f"names, sizes and times in share {self.share} show {_listed(self.seeing)}, who may append, "
            f"what is done there by {_listed(self.seen)}"
        )


def size_channels(graph: FlowGraph) -> tuple[SizeChannel, ...]:
    """Every such share. Who appends has to find the file and its end, though he may not read what is in it.

    Communities that the share trusts are left out: for them the file gives a reason already.
    """
    found = []
    for place in graph.labels:
        if place.kind is not PlaceKind.SHARE:
            continue
        hops = [hop for number in graph.hops_to[place] if (hop := graph.hops[number]).kind in _CHANGING]
        changing = list(dict.fromkeys(hop.source for hop in hops))
        pairs = [
            (low, high)
            for low in dict.fromkeys(hop.source for hop in hops if hop.reason is None)
            for high in changing
            if not graph.labels[low].dominates(graph.labels[high])
        ]
        if pairs:
            seeing, seen = (tuple(dict.fromkeys(each.name for each in end)) for end in zip(*pairs, strict=True))
            found.append(SizeChannel(place.name, seeing, seen, ("shares", place.name, "access")))
    return tuple(found)


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
