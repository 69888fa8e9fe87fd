# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of users and of the rules that choose a community at login."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vinci.model.checks.facts import Facts, Finding, error, is_reason, no_reason, warning
from vinci.model.infrastructure import LoginRule
from vinci.model.problems import ModelPath

# base-passwd's users and groups, and those that the images' packages add (useradd makes a group of the user's name)
# fmt: off
SYSTEM_NAMES = frozenset((
    "root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data",
    "backup", "list", "irc", "gnats", "nobody", "adm", "tty", "disk", "kmem", "dialout", "fax", "voice", "cdrom",
    "floppy", "tape", "sudo", "audio", "dip", "operator", "src", "shadow", "utmp", "video", "sasl", "plugdev",
    "staff", "users", "nogroup", "input", "sgx", "kvm", "render", "crontab", "messagebus", "sshd", "statd", "rpc",
    "ntp", "tcpdump", "uuidd", "polkitd", "avahi", "_apt", "_rpc", "_ssh", "_chrony", "vinci", "libvirt-qemu",
))
# fmt: on
_COSTS = re.compile(r"\$m=([0-9]+),t=([0-9]+),p=([0-9]+)\$")
MIN_MEMORY_KIB = 7 * 1024
"""OWASP's least argon2id setting: 7 MiB with 5 passes."""
MAX_MEMORY_KIB = 1024 * 1024
"""A hash that needs more would let one login exhaust the node's agent."""


def check_users(facts: Facts) -> Iterator[Finding]:
    """UIDs that are one person's, communities that exist, names that no system account has."""
    uids: dict[int, str] = {}
    local_uids: dict[tuple[str, int], str] = {}
    without_password: list[str] = []
    for name, user in facts.infrastructure.users.items():
        path: ModelPath = ("users", name)
        if name in SYSTEM_NAMES or name.startswith("systemd-"):
            yield error(path, f'"{name}" is the name of a system account', "choose another login name")
        if user.uid in uids:
            other = uids[user.uid]
            yield error((*path, "uid"), f"UID {user.uid} is also {other}'s", "give each user a UID of its own")
        uids.setdefault(user.uid, name)
        for community, membership in user.communities.items():
            where = (*path, "communities", community)
            yield from facts.unknown("communities", community, where, "community")
            local = membership.local_uid or user.uid
            other = local_uids.setdefault((community, local), name)
            if other != name and facts.infrastructure.users[other].uid != user.uid:
                right = "choose another local_uid"
                yield error(where, f"in {community}, {name} and {other} both have the UID {local}", right)
        yield from _trust(facts, name, path)
        if user.password_hash is None:
            without_password.append(name)
        else:
            yield from _hash(user.password_hash, (*path, "password_hash"))
    yield from _empty_communities(facts)
    if without_password:
        names = ", ".join(without_password[:5]) + (", …" if len(without_password) > 5 else "")
        what = f"{len(without_password)} users have no password and cannot log in: {names}"
        yield warning(("users", without_password[0]), what, "`vinci passwd USER` sets one")


def _trust(facts: Facts, name: str, path: ModelPath) -> Iterator[Finding]:
    user = facts.infrastructure.users[name]
    if user.trusted and not is_reason(user.reason):
        yield no_reason(user.reason, path, "trusted", f"{name} is trusted")
    if user.trusted and len(user.communities) == 1:
        what = f"{name} is in one community and has nothing to be trusted with"
        yield warning((*path, "trusted"), what, "remove `trusted`")


def _hash(encoded: str, path: ModelPath) -> Iterator[Finding]:
    costs = _COSTS.search(encoded)
    if costs is None:
        return
    memory = int(costs[1])
    if memory > MAX_MEMORY_KIB or int(costs[2]) > 64:
        yield error(path, "checking this password costs too much", "`vinci passwd USER` makes a usable hash")
    elif memory < MIN_MEMORY_KIB:
        yield warning(path, "this password hash is weak", "`vinci passwd USER` makes a strong one")


def _empty_communities(facts: Facts) -> Iterator[Finding]:
    if facts.complete("users"):
        for community, members in facts.members.items():
            if not members:
                yield warning(("communities", community), f'community "{community}" has no users', "add users to it")


def check_login(facts: Facts) -> Iterator[Finding]:
    """Rules that name known things and can decide something."""
    seen: dict[tuple[str | None, str | None, str | None], list[tuple[int, str]]] = {}
    for number, rule in facts.login_rules():
        path: ModelPath = ("login", number)
        problems = [
            *facts.unknown("communities", rule.community, (*path, "community"), "community"),
            *(facts.unknown("users", rule.user, (*path, "user"), "user") if rule.user else ()),
            *(facts.unknown("nodes", rule.node, (*path, "node"), "node") if rule.node else ()),
            *_never(facts, rule, path),
        ]
        yield from problems
        if not problems and (earlier := _decided_before(facts, rule, seen)) is not None:
            yield error(
                path, f"this rule never decides: rule {earlier + 1} does before it", "put it earlier, or remove it"
            )
        seen.setdefault((rule.user, rule.node, rule.between), []).append((number, rule.community))


def _never(facts: Facts, rule: LoginRule, path: ModelPath) -> Iterator[Finding]:
    user = facts.infrastructure.users.get(rule.user) if rule.user else None
    if user is not None and rule.community not in user.communities:
        what = f"this rule can never fit: {rule.user} is not in {rule.community}"
        yield error(path, what, f"{rule.user} is in " + ", ".join(user.communities))
    if rule.between is not None and len(set(rule.between.split("-"))) == 1:
        what = f"this rule can never fit: {rule.between} is no time at all"
        yield error((*path, "between"), what, "leave `between` out for the whole day")


def _decided_before(
    facts: Facts, rule: LoginRule, seen: dict[tuple[str | None, str | None, str | None], list[tuple[int, str]]]
) -> int | None:
    """The number of an earlier rule that fits whenever this one does."""
    if not facts.complete("users"):
        return None
    candidates = {rule.user} if rule.user else set(facts.members.get(rule.community, ()))
    for user in {rule.user, None}:
        for node in {rule.node, None}:
            for between in {rule.between, None}:
                for number, community in seen.get((user, node, between), ()):
                    if candidates <= set(facts.members.get(community, ())):
                        return number
    return None
