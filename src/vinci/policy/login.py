# SPDX-License-Identifier: GPL-2.0-or-later
"""Which community a login enters, by where and when it is made. Pure: clock and place are arguments.

Rules choose among a user's communities and give nobody a right: who is in several may name one of them at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time

from vinci.model.infrastructure import Infrastructure, LoginRule


class NotMemberError(Exception):
    """The user is not in the community that was asked for."""


class CommunityNeededError(Exception):
    """The user is in several communities and no rule decides: one has to be named. The text says why none does."""

    def __init__(self, text: str, choices: tuple[str, ...]) -> None:
        super().__init__(text)
        self.choices = choices


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where and when somebody logs in. `at` is the node's local time, in its time zone."""

    node: str
    at: datetime

    def __str__(self) -> str:
        return f"{self.at:%H:%M} {self.at.tzname() or 'local time'} at {self.node}"


@dataclass(frozen=True, slots=True)
class Entrance:
    """The community that a login enters; `rule` is the number of the rule of `login:` that decided, from 0."""

    community: str
    rule: int | None = None


def entrance(infrastructure: Infrastructure, user: str, asked: str | None, where: Circumstances) -> Entrance:
    """The community that a login enters: the one asked for, else that of the first rule that fits, else the only one.

    Raises:
        NotMemberError: the user is not in the community asked for.
        CommunityNeededError: the user is in several, none was asked for and no rule fits.
    """
    memberships = infrastructure.users[user].communities
    if asked is not None:
        if asked not in memberships:
            raise NotMemberError(f"{user} is not in community {asked}")
        return Entrance(asked)
    for number, rule in enumerate(infrastructure.login):
        if rule.community in memberships and fits(rule, user, where):
            return Entrance(rule.community, number)
    if len(memberships) == 1:
        return Entrance(next(iter(memberships)))
    raise CommunityNeededError(_undecided(infrastructure, user, where), tuple(memberships))


def fits(rule: LoginRule, user: str, where: Circumstances) -> bool:
    """True when a rule speaks of this user, place and time; the end of `between` is not included."""
    if rule.user not in (None, user) or rule.node not in (None, where.node):
        return False
    if rule.between is None:
        return True
    start, end = (time.fromisoformat(part) for part in rule.between.split("-"))
    now = where.at.time()
    return start <= now < end if start <= end else now >= start or now < end


def _undecided(infrastructure: Infrastructure, user: str, where: Circumstances) -> str:
    """What the rules say of somebody for whom none decides now."""
    rules = [
        f"{rule.community}{f' at {rule.node}' if rule.node else ''}{f' from {rule.between}' if rule.between else ''}"
        for rule in infrastructure.login
        if rule.user in (None, user) and rule.community in infrastructure.users[user].communities
    ]
    if not rules:
        return f"{user} is in several communities, and no login rule decides"
    return f"{user} is in several communities, and no login rule fits at {where} (rules: {'; '.join(rules)})"
