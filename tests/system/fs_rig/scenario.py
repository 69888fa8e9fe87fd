# SPDX-License-Identifier: GPL-2.0-or-later
"""What the file service of the tests declares, and who its clients are. Independent of the plan compiler on purpose."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from vinci.model.infrastructure import Operation, ShareKind
from vinci.plan.file_tables import share_table
from vinci.plan.types import Member, PlannedLabel, PlannedShare, ShareGrant
from vinci.policy.cil import file_policy, mount_context, own_types, share_context, subject_context

READ, WRITE, APPEND, EXECUTE = Operation.READ, Operation.WRITE, Operation.APPEND, Operation.EXECUTE
GID = 60_000


def label(level: int, *categories: int) -> PlannedLabel:
    """A label by its numbers."""
    return PlannedLabel(level, frozenset(categories), "")


LABELS = {"doctors": label(1, 0), "nurses": label(1, 0, 1), "administration": label(2, 0, 1, 2)}


def share(
    name: str, at: PlannedLabel, access: dict[str, set[Operation]], trusted: tuple[str, ...] = ()
) -> PlannedShare:
    """A share; `access` by community or `community:user`."""
    grants = tuple(
        ShareGrant(who.partition(":")[0], who.partition(":")[2] or None, frozenset(what))
        for who, what in access.items()
    )
    kind = ShareKind.HOMES if name.startswith("homes") else ShareKind.TREE
    return PlannedShare(
        name, "files", kind, at, f"/srv/{name}", f"/mnt/{name}", grants, trusted, share_context(name, at)
    )


D, N, A = LABELS["doctors"], LABELS["nurses"], LABELS["administration"]
SHARES = (
    share("prescriptions", D, {"doctors": {READ, WRITE}, "nurses": {READ}}),
    share("billing", label(2, 0, 2), {"doctors": {APPEND}, "administration": {READ}}),
    share("journal", D, {"doctors": {READ, APPEND}, "nurses": {READ}}),
    share("mixed", N, {"nurses": {READ, WRITE}, "doctors": {APPEND}}),
    share("project", D, {"doctors:anna": {READ, WRITE}, "nurses": {READ}}),
    share("tools", D, {"doctors:anna": {READ, WRITE}, "nurses": {EXECUTE}}),
    share("homes-doctors", D, {"doctors": {READ, WRITE}}),
    # granted against the labels, as no validated file can: the constraints have to stop these
    share("readup", A, {"doctors": {READ, WRITE}, "administration": {READ, WRITE}}),
    share("writedown", D, {"doctors": {READ}, "administration": {READ, WRITE, APPEND}}),
    share("sideways", label(1, 1), {"doctors": {READ, WRITE, APPEND}}),
    share("downgraded", D, {"doctors": {READ}, "administration": {READ, WRITE}}, trusted=("administration",)),
)


@dataclass(frozen=True)
class Client:
    """A client: its address, the FS-VM's address on its leg, the name of its card."""

    name: str
    community: str
    card: str
    mac: str
    address: str
    server: str


CLIENTS = (
    Client("d1", "doctors", "eth0", "02:56:01:00:00:00", "10.20.1.10", "10.20.1.2"),
    Client("d2", "doctors", "eth1", "02:56:01:00:00:01", "10.20.1.11", "10.20.1.2"),
    Client("n1", "nurses", "eth2", "02:56:01:00:00:02", "10.20.2.10", "10.20.2.2"),
    Client("a1", "administration", "eth3", "02:56:01:00:00:03", "10.20.3.10", "10.20.3.2"),
)
BY_NAME = {client.name: client for client in CLIENTS}


@dataclass(frozen=True)
class Session:
    """A user logged in on a client: the UID that he has there, and everywhere."""

    client: str
    user: str
    local_uid: int
    uid: int


SESSIONS = (
    Session("d1", "anna", 20001, 20001),
    Session("d2", "bruno", 1001, 20002),
    Session("n1", "sally", 20003, 20003),
    Session("a1", "carla", 1001, 20004),
    Session("a1", "bruno", 20002, 20002),
)


def members() -> list[Member]:
    """Everybody, whether logged in or not."""
    return [Member(s.user, BY_NAME[s.client].community, s.local_uid, s.uid) for s in SESSIONS]


def grants(sessions: tuple[Session, ...] = SESSIONS) -> bytes:
    """The subject table of these sessions."""
    owners = own_types(SHARES)
    rows = []
    for name in dict.fromkeys(session.client for session in sessions):
        client = BY_NAME[name]
        context = mount_context(client.community, LABELS[client.community])
        rows.append(f"{client.address}\t0\t65534\t65534\t{context}")
    for s in sessions:
        client = BY_NAME[s.client]
        own = (s.user, client.community) in owners
        context = subject_context(s.user, client.community, LABELS[client.community], own)
        rows.append(f"{client.address}\t{s.local_uid}\t{s.uid}\t{GID}\t{context}")
    return "".join(row + "\n" for row in rows).encode()


def table(shares: tuple[PlannedShare, ...] = SHARES) -> bytes:
    """The share table."""
    return share_table(shares, members()).encode()


def policy(folder: Path, shares: tuple[PlannedShare, ...] = SHARES) -> bytes:
    """The compiled policy."""
    source, binary = folder / "policy.cil", folder / "policy.bin"
    source.write_text(file_policy(3, 3, list(LABELS.items()), members(), shares))
    subprocess.run(
        ["secilc", "--mls", "true", "-c", "33", "-o", str(binary), "-f", "/dev/null", str(source)],
        check=True,
        timeout=60,
    )
    return binary.read_bytes()


def without(share_name: str, community: str) -> tuple[PlannedShare, ...]:
    """The shares, with a community's rights on one of them taken away."""
    return tuple(
        replace(s, grants=tuple(g for g in s.grants if g.community != community)) if s.name == share_name else s
        for s in SHARES
    )
