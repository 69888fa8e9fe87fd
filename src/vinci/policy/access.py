# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a member of a community may do something with a share, and why: the grant first, then the labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vinci.model.infrastructure import Infrastructure, Operation
from vinci.model.labels import Lattice, PlannedLabel, permitted
from vinci.model.problems import ModelPath

IMPLIED = {Operation.READ: (Operation.EXECUTE,), Operation.APPEND: (Operation.WRITE,)}
"""Who may execute may read, and who may write may append: the operations that include another."""


@dataclass(frozen=True, slots=True)
class Access:
    """The answer for one (community, user, operation, share)."""

    allowed: bool
    granted_by: ModelPath | None
    """The line of `access` that gives the operation; None when none does."""
    labels_permit: bool
    trusted: str | None
    """The reason why the community is trusted with the share against its label."""
    subject: PlannedLabel
    share: PlannedLabel


def access(
    infrastructure: Infrastructure, lattice: Lattice, community: str, user: str | None, operation: Operation, share: str
) -> Access:
    """What the declaration says. `user` None stands for any member: only grants to the whole community count."""
    declared = infrastructure.shares[share]
    subject = lattice.resolve(infrastructure.communities[community].label)
    label = lattice.resolve(declared.label)
    enough = {operation, *IMPLIED.get(operation, ())}
    granted = next(
        (
            ("shares", share, "access", grantee)
            for grantee in grantees(community, user)
            if enough.intersection(declared.access.get(grantee, ()))
        ),
        None,
    )
    trusted = None
    if declared.trusted is not None and community in declared.trusted.communities:
        trusted = declared.trusted.reason
    permit = permitted(operation, subject, label)
    return Access(granted is not None and (permit or trusted is not None), granted, permit, trusted, subject, label)


def grantees(community: str, user: str | None) -> Iterable[str]:
    """The ways in which `access` may name a member."""
    return (community,) if user is None else (community, f"{community}:{user}")
