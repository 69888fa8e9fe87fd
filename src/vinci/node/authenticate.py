# SPDX-License-Identifier: GPL-2.0-or-later
"""Who a user is, and which community a login enters: central authentication by the A-VM."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time

import argon2

from vinci.model.infrastructure import Infrastructure, LoginRule

MAX_PASSWORD = 1024
FAILURES_ALLOWED = 5
FAILURE_WINDOW_SECONDS = 60.0

_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""OWASP's choice for argon2id, 19 MiB and 2 passes: some logins at once must not outgrow the agent's memory.
The example's hashes are made so too: with other settings the time of an answer would tell which users exist."""
_NOBODY = _HASHER.hash("nobody has this password")


class DeniedError(Exception):
    """The login is refused. `reason` is for the audit; whoever asked only learns that it was refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CommunityNeededError(Exception):
    """The user is in several communities and no rule decides: one has to be named."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        super().__init__(", ".join(choices))
        self.choices = choices


def hash_password(password: str) -> str:
    """The argon2id hash (RFC 9106) to keep of a password."""
    return _HASHER.hash(password)


def verify_password(stored: str | None, untrusted_password: str) -> bool:
    """True when the password fits. Takes as long for a user that does not exist."""
    if len(untrusted_password) > MAX_PASSWORD:
        return False
    try:
        _HASHER.verify(stored or _NOBODY, untrusted_password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
    return stored is not None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where and when somebody logs in."""

    node: str
    at: time


def choose_community(infrastructure: Infrastructure, user: str, asked: str | None, where: Circumstances) -> str:
    """The community that this login enters: the one asked for, else the first rule that fits, else the only one.

    Raises:
        DeniedError: the user is not in the community.
        CommunityNeededError: several fit and no rule decides.
    """
    memberships = infrastructure.users[user].communities
    if asked is not None:
        if asked not in memberships:
            raise DeniedError(f"{user} is not in community {asked}")
        return asked
    for rule in infrastructure.login:
        if rule.community in memberships and _fits(rule, user, where):
            return rule.community
    if len(memberships) == 1:
        return next(iter(memberships))
    raise CommunityNeededError(tuple(memberships))


def _fits(rule: LoginRule, user: str, where: Circumstances) -> bool:
    if rule.user not in (None, user) or rule.node not in (None, where.node):
        return False
    if rule.between is None:
        return True
    start, end = (time.fromisoformat(part) for part in rule.between.split("-"))
    if start <= end:
        return start <= where.at < end
    return where.at >= start or where.at < end


class FailureLimit:
    """Refuses further attempts for a user after too many wrong passwords within a short time.

    Attempts are counted by who makes them, the UID at the other end of the agent's socket: somebody who guesses locks
    out himself, not the user.
    """

    def __init__(self) -> None:
        self._failures: dict[tuple[int, str], list[float]] = {}

    def blocked(self, asker: int, user: str, now: float) -> bool:
        """True while this asker has used up the attempts for the user."""
        recent = [t for t in self._failures.get((asker, user), []) if now - t < FAILURE_WINDOW_SECONDS]
        if recent:
            self._failures[asker, user] = recent
        else:
            self._failures.pop((asker, user), None)
        return len(recent) >= FAILURES_ALLOWED

    def failed(self, asker: int, user: str, now: float) -> None:
        """Count a wrong password. Only declared users and members of the group are counted: the table is bounded."""
        self._failures.setdefault((asker, user), []).append(now)

    def passed(self, asker: int, user: str) -> None:
        """Forget the failures of a user who came in."""
        self._failures.pop((asker, user), None)
