# SPDX-License-Identifier: GPL-2.0-or-later
"""What an explained denial is made of, whoever denied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vinci.model.load import Declaration
from vinci.model.problems import ModelPath
from vinci.plan.types import Nic, Plan, Vm
from vinci.policy.explain import Explanation, Ground

Record = Mapping[str, Any]
"""A record of the audit."""


class NotADenialError(Exception):
    """The record tells of something else than a denial."""


@dataclass(frozen=True, slots=True)
class Denial:
    """What denied it (`rule`), where (`place`), and why."""

    place: str
    rule: str
    explanation: Explanation
    allowed: bool = False
    """True for a record of something that was permitted: then rule and place are those that let it through."""


def ground(declaration: Declaration, text: str, path: ModelPath | None, decides: bool = True) -> Ground:
    """A step of the reasoning with its line of the file, if there is one."""
    return Ground(text, declaration.source.at(path) if path is not None else None, decides)


def cards(plan: Plan) -> list[tuple[Vm, Nic]]:
    """Every network card, with its VM."""
    return [(vm, nic) for node in plan.nodes for vm in node.vms for nic in vm.nics]
