# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of shares: who gets at them, and where they are mounted.

Whether what is granted leads down is the proof's business (`vinci.policy.flows`), which shows the whole way.
"""

from __future__ import annotations

from collections.abc import Iterator

from vinci.model.checks.facts import Facts, Finding, choice, error, warning
from vinci.model.infrastructure import Operation, Share, ShareKind
from vinci.model.labels import RULES, PlannedLabel, permitted
from vinci.model.problems import ModelPath

# fmt: off
SYSTEM_DIRECTORIES = frozenset((
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "lost+found",
    "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var",
))
# fmt: on
"""Top directories of an APP-VM that belong to its image."""


def check_shares(facts: Facts) -> Iterator[Finding]:
    """Each share for itself, then the mount points of each community."""
    for name, share in facts.infrastructure.shares.items():
        path: ModelPath = ("shares", name)
        yield from facts.unknown("file_servers", share.server, (*path, "server"), "file server")
        yield from _access(facts, name, share)
        yield from _trusted(facts, name, share)
        yield from _mount_point(share, (*path, "mount"))
        if share.kind is ShareKind.HOMES:
            yield from _homes(facts, name, share)
    yield from _clashes(facts)
    yield from _several_homes(facts)


def _access(facts: Facts, name: str, share: Share) -> Iterator[Finding]:
    label = facts.label(share.label)
    trusted = share.trusted.communities if share.trusted else ()
    readers = 0
    for grantee, operations in share.access.items():
        path: ModelPath = ("shares", name, "access", grantee)
        community, _, user = grantee.partition(":")
        yield from facts.unknown("communities", community, path, "community")
        if user:
            yield from _user(facts, community, user, path)
        yield from _repeated(facts, share, grantee, operations, path)
        own = facts.labels.get(community)
        readers += any(operation in (Operation.READ, Operation.EXECUTE) for operation in operations)
        if label is not None and own is not None and Operation.WRITE in operations and community not in trusted:
            yield from _written_up(name, grantee, own, label, path)
    if not readers:
        right = "give somebody read access, or remove the share"
        yield error(("shares", name, "access"), f'nobody can read "{name}"', right)


def _written_up(name: str, grantee: str, own: PlannedLabel, label: PlannedLabel, path: ModelPath) -> Iterator[Finding]:
    """Writing up is no leak, but it spoils what higher ones rely on, unseen by the one who does it."""
    if label.dominates(own) and not own.equals(label):
        community = grantee.partition(":")[0]
        yield error(
            path,
            f'{grantee} may not write "{name}": {RULES[Operation.WRITE]}; {community} has {own.text}, '
            f"the share {label.text}",
            f"write append, change a label, or declare `trusted: {{communities: [{community}], reason: …}}`",
        )


def _user(facts: Facts, community: str, user: str, path: ModelPath) -> Iterator[Finding]:
    yield from facts.unknown("users", user, path, "user")
    declared = facts.infrastructure.users.get(user)
    if declared is not None and community not in declared.communities and facts.knows("communities", community):
        in_it = facts.members.get(community, ())
        yield error(path, f"{user} is not in {community}", choice(user, in_it, f"communities.{community}"))


def _repeated(
    facts: Facts, share: Share, grantee: str, operations: tuple[Operation, ...], path: ModelPath
) -> Iterator[Finding]:
    if len(set(operations)) < len(operations):
        yield warning(path, f"{grantee} is given an operation twice", "keep one of them")
    community, _, user = grantee.partition(":")
    if user and set(operations) <= set(share.access.get(community, ())):
        yield warning(path, f"all of {community} may do what {grantee} may", f"remove {grantee}")


def _trusted(facts: Facts, name: str, share: Share) -> Iterator[Finding]:
    if share.trusted is None:
        return
    label = facts.label(share.label)
    granted: dict[str, set[Operation]] = {}
    for grantee, operations in share.access.items():
        granted.setdefault(grantee.partition(":")[0], set()).update(operations)
    for number, community in enumerate(share.trusted.communities):
        path: ModelPath = ("shares", name, "trusted", "communities", number)
        yield from facts.unknown("communities", community, path, "community")
        if not facts.knows("communities", community):
            continue
        if community not in granted:
            right = "give it access, or remove it here"
            yield error(path, f'{community} is trusted with "{name}" but has no access to it', right)
        elif not _needs_trust(label, facts.labels.get(community), granted[community]):
            yield warning(path, f"the labels allow all that {community} may do: nothing to trust", "remove it here")


def _needs_trust(share: PlannedLabel | None, subject: PlannedLabel | None, operations: set[Operation]) -> bool:
    if share is None or subject is None:
        return True
    return not all(permitted(operation, subject, share) for operation in operations)


def _mount_point(share: Share, path: ModelPath) -> Iterator[Finding]:
    parts = share.mount.split("/")[1:]
    if "." in parts or ".." in parts:
        yield error(path, f'"{share.mount}" holds . or ..', "write the path out")
    elif parts[0] in SYSTEM_DIRECTORIES:
        right = "use /shares/…, /srv/… or another directory of its own"
        yield error(path, f"/{parts[0]} belongs to the APP-VM's own system", right)


def _homes(facts: Facts, name: str, share: Share) -> Iterator[Finding]:
    path: ModelPath = ("shares", name)
    grantees = list(share.access)
    if len(grantees) != 1 or ":" in grantees[0]:
        what = f'"{name}" holds home directories, and those are of exactly one community'
        yield error((*path, "access"), what, "write one community, and one such share for each community")
        return
    community = grantees[0]
    if not {Operation.READ, Operation.WRITE} <= set(share.access[community]):
        yield error((*path, "access", community), "a home directory is read and written", "write [read, write]")
    label, own = facts.label(share.label), facts.labels.get(community)
    if label is not None and own is not None and not label.equals(own):
        what = f"home directories have their community's label, {own.text}, not {label.text}"
        yield error((*path, "label"), what, f"write {community}'s label")


def _by_community(facts: Facts) -> dict[str, list[tuple[str, Share]]]:
    shares: dict[str, list[tuple[str, Share]]] = {}
    for name, share in facts.infrastructure.shares.items():
        for community in dict.fromkeys(grantee.partition(":")[0] for grantee in share.access):
            shares.setdefault(community, []).append((name, share))
    return shares


def _clashes(facts: Facts) -> Iterator[Finding]:
    """Shares of one community that are mounted at the same place, or one inside the other."""
    told: set[tuple[str, str]] = set()
    for community, shares in _by_community(facts).items():
        mounts: dict[str, str] = {}
        for name, share in shares:
            other = mounts.setdefault(share.mount, name)
            if other != name and (other, name) not in told:
                told.add((other, name))
                what = f'"{name}" and "{other}" are both mounted at {share.mount} in {community}'
                yield error(("shares", name, "mount"), what, "choose another place for one of them")
        for name, share in shares:
            parts = share.mount.split("/")
            for parent in ("/".join(parts[:depth]) for depth in range(2, len(parts))):
                other = mounts.get(parent, name)
                if other != name and (other, name) not in told:
                    told.add((other, name))
                    what = f'"{name}" would be mounted inside "{other}" ({parent}) in {community}'
                    yield error(("shares", name, "mount"), what, "choose places beside each other")


def _several_homes(facts: Facts) -> Iterator[Finding]:
    for community, shares in _by_community(facts).items():
        homes = [name for name, share in shares if share.kind is ShareKind.HOMES]
        for name in homes[1:]:
            what = f'{community} has home directories in "{homes[0]}" already'
            yield error(("shares", name), what, "keep one share of kind homes for each community")
