# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a way for information is one that was there before, or lets more through than that one."""

from __future__ import annotations

from collections.abc import Iterable

from vinci.model.inspection import HttpInspection, ModbusInspection, numbers
from vinci.model.labels import PlannedLabel
from vinci.policy.graph import FlowGraph, Hop, HopKind, Place

Inspected = ModbusInspection | HttpInspection | None


class Widening:
    """Compares hops and labels of a new graph with those of an old one."""

    def __init__(self, old: FlowGraph, new: FlowGraph) -> None:
        self._old, self._new = old, new
        self._before, after = old.infrastructure.labels, new.infrastructure.labels
        self._levels = {name: number for number, name in enumerate(after.levels)}
        self._categories = {name: number for number, name in enumerate(after.categories)}

    def is_wider(self, hop: Hop, known: Hop) -> bool:
        """True when `hop` carries information of a higher label than `known` did, to a lower one, or less inspected."""
        return (
            self.is_raised(known.source, hop.source)
            or self.is_lowered(known.target, hop.target)
            or not is_within(_inspection(self._new, hop), _inspection(self._old, known))
        )

    def is_raised(self, old: Place, new: Place) -> bool:
        """True when a place's old label does not dominate its new one."""
        before = self._today(self._old.labels[old])
        return before is None or not before.dominates(self._new.labels[new])

    def is_lowered(self, old: Place, new: Place) -> bool:
        """True when a place's new label does not dominate its old one: what is there comes down with it."""
        before = self._today(self._old.labels[old])
        return before is None or not self._new.labels[new].dominates(before)

    def _today(self, label: PlannedLabel) -> PlannedLabel | None:
        """An old label with the numbers of the new lattice; None when its level or a category is gone."""
        level = self._levels.get(self._before.levels[label.level])
        names = [self._before.categories[number] for number in label.categories]
        if level is None or not all(name in self._categories for name in names):
            return None
        return PlannedLabel(level, frozenset(self._categories[name] for name in names), label.text)


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
