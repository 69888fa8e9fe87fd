# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a way for information is one that was there before, or lets more through than that one."""

from __future__ import annotations

from collections.abc import Iterable

from vinci.model.inspection import HttpInspection, ModbusInspection, numbers
from vinci.model.labels import PlannedLabel
from vinci.policy.graph import FlowGraph, Hop, HopKind

Inspected = ModbusInspection | HttpInspection | None


class Widening:
    """Compares hops of a new graph with those of an old one."""

    def __init__(self, old: FlowGraph, new: FlowGraph) -> None:
        self._old, self._new = old, new
        labels = (old.infrastructure.labels, new.infrastructure.labels)
        # Only within one lattice do the numbers of labels mean the same.
        self._same_lattice = len({(each.levels, each.categories) for each in labels}) == 1

    def is_wider(self, hop: Hop, known: Hop) -> bool:
        """True when `hop` carries information of a higher label than `known` did, to a lower one, or less inspected."""
        return (
            not self._dominates(self._old.labels[known.source], self._new.labels[hop.source])
            or not self._dominates(self._new.labels[hop.target], self._old.labels[known.target])
            or not is_within(_inspection(self._new, hop), _inspection(self._old, known))
        )

    def _dominates(self, upper: PlannedLabel, lower: PlannedLabel) -> bool:
        return upper.dominates(lower) if self._same_lattice else upper.text == lower.text


def _inspection(graph: FlowGraph, hop: Hop) -> Inspected:
    if hop.kind in (HopKind.REQUEST, HopKind.ANSWER):
        return graph.infrastructure.flows[int(hop.via)].inspection
    return None


def is_within(new: Inspected, old: Inspected) -> bool:
    """True when a gateway that is declared so lets nothing through that the old one did not."""
    match new, old:
        case _, None:
            return True
        case ModbusInspection(), ModbusInspection():
            return (
                new.rate <= old.rate
                and set(new.functions) <= set(old.functions)
                and _covered(new.units, old.units)
                and _covered(new.registers, old.registers)
            )
        case HttpInspection(), HttpInspection():
            return (
                new.rate <= old.rate
                and set(new.methods) <= set(old.methods)
                and new.max_body_bytes <= old.max_body_bytes
                and all(_has_path(old.paths, path) for path in new.paths)
            )
    return False


def _covered(new: tuple[str, ...], old: tuple[str, ...]) -> bool:
    """True when every number of the new ranges lies in the old ones."""
    joined: list[tuple[int, int]] = []
    for first, last in numbers(old):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return all(any(low <= first and last <= high for low, high in joined) for first, last in numbers(new))


def _has_path(paths: Iterable[str], wanted: str) -> bool:
    """True when one of the paths is the wanted one, or stands for all that the wanted one stands for."""
    return any(path == wanted or (path.endswith("*") and wanted.startswith(path[:-1])) for path in paths)
