# SPDX-License-Identifier: GPL-2.0-or-later
"""Which community a login enters, by where and when it is made. Pure: clock and place are arguments.

A user whom a rule of `login:` names enters by a rule and in no other way, so that a rule is a bound and not a
suggestion: outside of its node and its hours nobody gets in by asking for the community. For all others rules only
choose among the user's communities.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time

from vinci.model.infrastructure import Infrastructure, LoginRule


class NotMemberError(Exception):
    """The user is not in the community that was asked for."""


class NoRuleError(Exception):
    """Rules decide over the user's logins, and none lets this one in. The text is for the user."""


class CommunityNeededError(Exception):
    """The user is in several communities and no rule decides: one has to be named."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        super().__init__(", ".join(choices))
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
    """The community that a login of `user` enters: by the first rule that fits, else the one asked for or the only one.

    Raises:
        NotMemberError: the user is not in the community asked for.
        NoRuleError: rules name the user, and none of them fits now.
        CommunityNeededError: the user is in several, none was asked for and no rule decides.
    """
    memberships = infrastructure.users[user].communities
    if asked is not None and asked not in memberships:
        raise NotMemberError(f"{user} is not in community {asked}")
    fitting = [
        Entrance(rule.community, number)
        for number, rule in enumerate(infrastructure.login)
        if rule.community in memberships and fits(rule, user, where)
    ]
    wanted = [each for each in fitting if asked in (None, each.community)]
    if any(rule.user == user for rule in infrastructure.login):
        if not wanted:
            raise NoRuleError(_refusal(infrastructure, user, asked, where))
        return wanted[0]
    if asked is not None:
        return Entrance(asked)
    if fitting:
        return fitting[0]
    if len(memberships) == 1:
        return Entrance(next(iter(memberships)))
    raise CommunityNeededError(tuple(memberships))


def fits(rule: LoginRule, user: str, where: Circumstances) -> bool:
    """True when a rule speaks of this user, place and time; the end of `between` is not included."""
    if rule.user not in (None, user) or rule.node not in (None, where.node):
        return False
    if rule.between is None:
        return True
    start, end = (time.fromisoformat(part) for part in rule.between.split("-"))
    now = where.at.time()
    return start <= now < end if start <= end else now >= start or now < end


def _refusal(infrastructure: Infrastructure, user: str, asked: str | None, where: Circumstances) -> str:
    """What the rules would let in, for somebody whom they do not let in now."""
    rules = [
        f"{rule.community}{f' at {rule.node}' if rule.node else ''}{f' from {rule.between}' if rule.between else ''}"
        for rule in infrastructure.login
        if rule.user in (None, user) and rule.community in infrastructure.users[user].communities
    ]
    wanted = f" {asked}" if asked else ""
    return f"no login rule lets {user} into{wanted or ' any community'} now, {where}: the rules are {'; '.join(rules)}"
