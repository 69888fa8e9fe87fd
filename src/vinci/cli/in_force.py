# SPDX-License-Identifier: GPL-2.0-or-later
"""The declaration that is in force at a node's agent, and those before it."""

from __future__ import annotations

from dataclasses import dataclass

from vinci.cli.client import find
from vinci.model.infrastructure import Infrastructure
from vinci.model.load import Declaration, parse
from vinci.model.problems import DeclarationError
from vinci.node.paths import NodePaths
from vinci.policy.changes import FlowChange, relabelled_shares


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
    return None if answer is None else _read(answer)


async def last_declaration(paths: NodePaths) -> InForce | None:
    """What the agent follows or, after a `down`, followed last: the disks hold what was written under it."""
    answer = await find(paths, "/v1/former")
    return None if answer is None else _read(answer)


async def returning_shares(paths: NodePaths, last: InForce | None, wanted: Infrastructure) -> list[FlowChange]:
    """The shares that are not in the last declaration, were in one before it, and come back with a lower label.

    Their trees stayed on the disk of their FS-VM, and are given the new label.
    """
    before = last.declaration.infrastructure.shares if last is not None and last.declaration else {}
    names = set(wanted.shares) - set(before)
    found: list[FlowChange] = []
    version = last.version if last is not None else 0
    while names and (answer := await find(paths, f"/v1/former?before={version}")) is not None:
        version = int(answer["version"])
        if not any(name in answer["text"] for name in names):
            continue  # a big file takes a second to read
        former = _read(answer).declaration
        if former is not None:
            back = names & set(former.infrastructure.shares)
            found += relabelled_shares(former.infrastructure, wanted, back)
            names -= back
    return found


def _read(answer: dict[str, object]) -> InForce:
    path = str(answer["path"])
    try:
        declaration = parse(str(answer["text"]).encode(), path)
    except DeclarationError:
        declaration = None
    return InForce(int(str(answer["version"])), path, declaration)
