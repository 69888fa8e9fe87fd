# SPDX-License-Identifier: GPL-2.0-or-later
"""The declaration that is in force at a node's agent."""

from __future__ import annotations

from dataclasses import dataclass

from vinci.cli.client import find
from vinci.model.load import Declaration, parse
from vinci.model.problems import DeclarationError
from vinci.node.paths import NodePaths


@dataclass(frozen=True, slots=True)
class InForce:
    """A stored declaration. `declaration` is None when this version of Vinci cannot read it any more."""

    version: int
    path: str
    declaration: Declaration | None


async def declaration_in_force(paths: NodePaths) -> InForce | None:
    """What the agent follows; None when nothing is in force there.

    Raises:
        NothingUp: no agent listens.
        Failure: it does not answer.
    """
    answer = await find(paths, "/v1/declaration")
    if answer is None:
        return None
    path = str(answer["path"])
    try:
        declaration = parse(str(answer["text"]).encode(), path)
    except DeclarationError:
        declaration = None
    return InForce(int(answer["version"]), path, declaration)
