# SPDX-License-Identifier: GPL-2.0-or-later
"""What a compiled SELinux policy lets users do with shares, read back from the binary by setools.

A second opinion: nothing here knows how the policy was made, only what the kernel does with it. A request is
permitted when an `allow` rule gives the permission **and** every constraint on it holds (security_compute_av in
security/selinux/ss/services.c). setools' own queries know the first half only, so constraints are evaluated here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from vinci.model.infrastructure import Operation


class ReadbackError(ValueError):
    """The artefact holds something that the reader does not know: it cannot be vouched for."""


class Level(NamedTuple):
    """An MLS level: sensitivity and categories by their names in the policy."""

    sensitivity: int
    categories: frozenset[int]

    def dominates(self, other: Level) -> bool:
        """Bell and LaPadula's order."""
        return self.sensitivity >= other.sensitivity and self.categories >= other.categories


@dataclass(frozen=True, slots=True)
class Context:
    """A security context taken apart. Only contexts with one level are used on FS-VMs."""

    user: str
    role: str
    type: str
    level: Level


@dataclass(frozen=True, slots=True)
class Rights:
    """What a subject can do with a share.

    `able` holds operations that can be done completely, `touching` those of which at least one step is permitted.
    In a policy that says what was declared the two are the same.
    """

    able: frozenset[Operation]
    touching: frozenset[Operation]
    looking: bool
    """True when names, sizes or times can be seen."""


_Permission = tuple[str, str]
"""Class and permission."""
_Expression = tuple[str | frozenset[str], ...]
"""A constraint in reverse Polish order: words, operators, sets of names."""

_ABLE: Mapping[Operation, frozenset[_Permission]] = {
    Operation.READ: frozenset({("dir", "search"), ("dir", "read"), ("file", "open"), ("file", "read")}),
    Operation.EXECUTE: frozenset({("dir", "search"), ("file", "open"), ("file", "read"), ("file", "execute")}),
    Operation.APPEND: frozenset({("dir", "search"), ("file", "open"), ("file", "append"), ("file", "getattr")}),
    Operation.WRITE: frozenset(
        {("dir", "search"), ("dir", "write"), ("dir", "add_name"), ("dir", "remove_name"), ("file", "open")}
        | {("file", permission) for permission in ("write", "create", "unlink", "setattr", "rename")}
    ),
}
"""What the NFS server asks the kernel for when a user reads a file, runs one, appends to one, changes a tree."""

_LOOK = frozenset({"getattr", "search", "open", "ioctl", "lock", "watch"})
_READ = frozenset({"read", "map", "watch_reads"})
_EXECUTE = frozenset({"execute", "execute_no_trans", "entrypoint", "execmod"})
_APPEND = frozenset({"append", "create", "add_name"})


@lru_cache(maxsize=4096)
def steps(permissions: frozenset[_Permission]) -> frozenset[Operation]:
    """The operations of which these (class, permission) are steps."""
    found = (_step_of(class_, permission) for class_, permission in permissions)
    return frozenset(step for step in found if step is not None)


@lru_cache(maxsize=4096)
def _step_of(class_: str, permission: str) -> Operation | None:
    """The operation of which a permission is a step; None for looking. Unknown permissions count as writing."""
    if permission in _LOOK:
        return None
    if permission in _READ:
        return Operation.READ
    if permission in _EXECUTE:
        return Operation.EXECUTE
    if permission in _APPEND or (class_ == "dir" and permission == "write"):
        return Operation.APPEND
    return Operation.WRITE


class FilePolicy:
    """A policy opened by setools, ready for questions."""

    def __init__(self, policy: Any) -> None:
        """Index the rules of a `setools.SELinuxPolicy`. Raises ReadbackError for what a file policy must not have.

        `is_personal` tells whether some constraint looks at users or roles, so that two users of one type may differ.
        """
        self._policy = policy
        self._rules = _Rules()
        self._constraints: dict[_Permission, set[_Expression]] = {}
        for rule in policy.terules():
            if str(rule.ruletype) == "allow":
                self._rules.add(rule)
            elif not str(rule.ruletype).startswith("dontaudit"):
                raise ReadbackError(f"rule `{rule}`: a file policy has allow rules only")
        if next(iter(policy.conditionals()), None) is not None:
            raise ReadbackError("the policy has conditional rules: what is permitted could change")
        if any(each.ispermissive for each in policy.types()):
            raise ReadbackError("the policy has permissive types: nothing is enforced for them")
        for constraint in policy.constraints():
            expression = tuple(map(_plain, constraint.expression))
            for permission in constraint.perms:
                self._constraints.setdefault((str(constraint.tclass), permission), set()).add(expression)
        words = {part for found in self._constraints.values() for each in found for part in each}
        self.is_personal = not words.isdisjoint(("u1", "u2", "r1", "r2"))
        self._answers: dict[object, frozenset[_Permission]] = {}

    def context(self, text: str) -> Context:
        """A context of the policy. Raises ReadbackError when the kernel would refuse it."""
        user, role, type_, level = text.split(":", 3)
        context = Context(user, role, type_, _level(level))
        try:
            known = self._policy.lookup_user(user)
            roles = {str(each) for each in known.roles}
            # object_r goes with every type (mls_context_isvalid, policydb_context_isvalid)
            if role != "object_r":
                types = {str(each) for each in self._policy.lookup_role(role).types()}
                if role not in roles or type_ not in types:
                    raise ReadbackError(f"{text}: the policy does not join this user, role and type")
            self._policy.lookup_type(type_)
            low, high = known.mls_range.low, known.mls_range.high
        except ReadbackError:
            raise
        except Exception as error:  # setools has a class of errors for each kind of name
            raise ReadbackError(f"{text}: {error}") from None
        if not (_level(str(high)).dominates(context.level) and context.level.dominates(_level(str(low)))):
            raise ReadbackError(f"{text}: outside of the range of {user}")
        return context

    def permitted(self, subject: Context, target: Context) -> frozenset[_Permission]:
        """Every (class, permission) that the kernel grants."""
        return self._unconstrained(self._rules.between(subject.type, target.type), subject, target)

    def _unconstrained(
        self, asked: frozenset[_Permission], subject: Context, target: Context
    ) -> frozenset[_Permission]:
        """Those of `asked` on which every constraint holds.

        All users of a community get the same answer where no constraint looks at users or roles; and most permissions
        share a few expressions.
        """
        pair = (subject, target) if self.is_personal else (subject.type, subject.level, target.type, target.level)
        if (pair, asked) not in self._answers:
            self._answers[pair, asked] = self._evaluated(asked, subject, target)
        return self._answers[pair, asked]

    def _evaluated(self, asked: frozenset[_Permission], subject: Context, target: Context) -> frozenset[_Permission]:
        values = _values(subject, target)
        known: dict[_Expression, bool] = {}

        def holds(expression: _Expression) -> bool:
            if expression not in known:
                known[expression] = _holds(expression, values)
            return known[expression]

        return frozenset(each for each in asked if all(map(holds, self._constraints.get(each, ()))))

    def rights(self, subject: Context, share: Context) -> Rights:
        """What `subject` can do with `share`."""
        granted = self.permitted(subject, share)
        return Rights(
            frozenset(operation for operation, needed in _ABLE.items() if needed <= granted),
            steps(granted),
            bool(granted),
        )

    def by_type(self, subject: Context, share: Context) -> frozenset[Operation]:
        """The operations of which some step is allowed by type alone: what would be possible without labels."""
        return steps(self._rules.between(subject.type, share.type))

    def by_label(self, subject: Context, share: Context, asked: frozenset[_Permission]) -> frozenset[Operation]:
        """The operations of which some step in `asked` passes every constraint: what would be without types."""
        return steps(self._unconstrained(asked, subject, share))

    def memberships(self) -> frozenset[tuple[str, str]]:
        """The pairs (SELinux user, role) that the policy joins."""
        return frozenset((str(user), str(role)) for user in self._policy.users() for role in user.roles)

    def reaching(self, target_type: str) -> Mapping[str, frozenset[_Permission]]:
        """Every type that has any right on a type, whatever the labels say."""
        return {source: self._rules.between(source, target_type) for source in self._rules.reaching(target_type)}

    def changes_of_subject(self) -> Iterable[str]:
        """Types that may become another type: none of a user's may."""
        return self._rules.changing


class _Rules:
    """`allow` rules by target and source type. Permissions are spelt out for the pairs that are asked for only."""

    def __init__(self) -> None:
        self._by_target: dict[str, dict[str, list[tuple[str, frozenset[str]]]]] = {}
        self._spelt: dict[tuple[str, str], frozenset[_Permission]] = {}
        self._members: dict[str, tuple[str, ...]] = {}
        self.changing: set[str] = set()

    def add(self, rule: Any) -> None:
        """Take up a rule of setools."""
        class_, permissions = str(rule.tclass), frozenset(rule.perms)
        sources, targets = self._types(rule.source), self._types(rule.target)
        changes = class_ == "process" and not permissions.isdisjoint(("transition", "dyntransition"))
        for target in targets:
            by_source = self._by_target.setdefault(target, {})
            for source in sources:
                by_source.setdefault(source, []).append((class_, permissions))
                if changes and source != target:
                    self.changing.add(source)

    def reaching(self, target: str) -> Iterable[str]:
        """The types with any right on a type."""
        return self._by_target.get(target, ())

    def between(self, source: str, target: str) -> frozenset[_Permission]:
        """What one type may do with another."""
        if (source, target) not in self._spelt:
            rules = self._by_target.get(target, {}).get(source, ())
            self._spelt[source, target] = frozenset(
                (class_, permission) for class_, permissions in rules for permission in permissions
            )
        return self._spelt[source, target]

    def _types(self, side: Any) -> tuple[str, ...]:
        name = str(side)
        if name not in self._members:
            self._members[name] = tuple(map(str, side.expand()))
        return self._members[name]


def _plain(part: Any) -> Any:
    """A word of an expression, or the names that a set of types, roles or users stands for."""
    if isinstance(part, str):
        return part
    return frozenset(str(name) for each in part for name in (each.expand() if hasattr(each, "expand") else [each]))


def _values(subject: Context, target: Context) -> dict[str, object]:
    """What the words of a constraint stand for."""
    return {
        **{"u1": subject.user, "u2": target.user, "r1": subject.role, "r2": target.role},
        **{"t1": subject.type, "t2": target.type, "l1": subject.level, "l2": target.level},
        **{"h1": subject.level, "h2": target.level},
    }


def _holds(expression: _Expression, values: Mapping[str, object]) -> bool:
    """Evaluate a constraint: operands and operators in reverse Polish order, as the kernel keeps them."""
    stack: list[Any] = []
    for part in expression:
        if isinstance(part, frozenset):
            stack.append(part)
        elif part in values:
            stack.append(values[part])
        elif part == "not":
            stack.append(not stack.pop())
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(_operator(part, left, right))
    (result,) = stack
    if not isinstance(result, bool):
        raise ReadbackError(f"constraint {expression} gives no truth value")
    return result


def _operator(name: str, left: Any, right: Any) -> bool:
    match name:
        case "and":
            return bool(left and right)
        case "or":
            return bool(left or right)
        case "==" | "!=":
            same = left in right if isinstance(right, frozenset) and not isinstance(left, Level) else left == right
            return bool(same == (name == "=="))
        case "dom":
            return bool(left.dominates(right))
        case "domby":
            return bool(right.dominates(left))
        case "incomp":
            return not left.dominates(right) and not right.dominates(left)
    raise ReadbackError(f"constraint operator {name} is not known")


def _level(text: str) -> Level:
    """`s1:c0.c3,c7`, also of a range with equal ends."""
    low, _, high = text.replace(" ", "").partition("-")
    if high and high != low:
        raise ReadbackError(f"level {text} is a range")
    sensitivity, _, names = low.partition(":")
    categories: set[int] = set()
    for part in names.split(",") if names else ():
        first, _, last = part.partition(".")
        categories.update(range(int(first[1:]), int((last or first)[1:]) + 1))
    return Level(int(sensitivity[1:]), frozenset(categories))
