# SPDX-License-Identifier: GPL-2.0-or-later
"""The little language of `expect:`: statements as data, and the parser.

    [only] WHO can|cannot OPERATIONS SHARES       only doctors can write prescriptions
    [only] WHO can|cannot reach WHO [by SERVICES]  doctors cannot reach administration by https
    nothing of WHO reaches WHO [except WAYS]       nothing of doctors reaches administration except billing, bruno
    WHO reaches WHO only by WAYS                   database reaches scada only by modbus read

WHO is a list of communities or members (`doctors:anna`), `nobody` or `everybody`; SHARES a list of shares, or
`anything`. WAYS are shares, users, services (`modbus read`: inspected, reading functions only) and communities on the
way; `share log` or `user log` where a name means two things. Lists are joined by commas, `and` or `or`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from vinci.model.complaints import nearest
from vinci.model.infrastructure import Infrastructure, Operation
from vinci.model.services import WELL_KNOWN

_TOKEN = re.compile(r"[A-Za-z0-9_:/-]+|,")
_JOINERS = frozenset({",", "and", "or"})
_NUMBERED_SERVICE = re.compile(r"(tcp|udp)/[0-9]{1,5}")


class StatementError(ValueError):
    """A statement that cannot be understood; `right` is what could be written."""

    def __init__(self, wrong: str, right: str) -> None:
        super().__init__(wrong)
        self.right = right


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """A community, or one of its members."""

    community: str
    user: str | None = None

    def __str__(self) -> str:
        return f"{self.community}:{self.user}" if self.user else self.community


class WayKind(StrEnum):
    """What a way by which information passes may be named after."""

    SHARE = "share"
    USER = "user"
    SERVICE = "service"
    COMMUNITY = "community"


@dataclass(frozen=True, slots=True)
class Way:
    """Something that information may pass by; `read_only` asks for a gateway that lets only reading through."""

    kind: WayKind
    name: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class MayAccess:
    """These subjects can (or cannot) do these operations with these shares; `only` says the same of nobody else."""

    subjects: tuple[Subject, ...]
    operations: tuple[Operation, ...]
    shares: tuple[str, ...]
    can: bool
    only: bool


@dataclass(frozen=True, slots=True)
class MayReach:
    """These communities can (or cannot) open connections to those, by these services or by any."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    services: tuple[str, ...]
    can: bool
    only: bool


@dataclass(frozen=True, slots=True)
class Passes:
    """Information of `sources` gets to `targets` by these ways only; `must` says that it does get there."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ways: tuple[Way, ...]
    must: bool


Statement = MayAccess | MayReach | Passes


def parse_statement(infrastructure: Infrastructure, text: str) -> Statement:
    """The statement in `text`. Raises StatementError."""
    rest = _TOKEN.sub("", text).strip()
    if rest:
        raise StatementError(f'"{rest[0]}" means nothing here', "use names, commas, `and`, `or`")
    return _Parser(infrastructure, _TOKEN.findall(text)).statement()


class _Parser:
    def __init__(self, infrastructure: Infrastructure, words: list[str]) -> None:
        self.infrastructure = infrastructure
        self.words = words

    def statement(self) -> Statement:
        if self._skip("nothing"):
            return self._nothing()
        only = self._skip("only")
        who = self._until("can", "cannot", "reaches")
        verb = self._next("can, cannot or reaches")
        if verb == "reaches":
            if only:
                raise StatementError('"only … reaches" means nothing', "write `nothing of A reaches B except …`")
            return self._reaches_only(who)
        if only and verb == "cannot":
            raise StatementError('"only … cannot" means nothing', "write `only A can …` or `A cannot …`")
        if self._skip("reach"):
            return self._reach(who, verb == "can", only)
        operations = self._operations()
        shares = self._shares(self._until())
        subjects, can = self._subjects(who), verb == "can"
        if who == ["nobody"]:
            subjects, can = self._everybody(), not can
        return MayAccess(subjects, operations, shares, can, only)

    def _nothing(self) -> Passes:
        self._expect("of")
        sources = self._communities(self._until("reaches"))
        self._expect("reaches")
        targets = self._communities(self._until("except"))
        ways: tuple[Way, ...] = ()
        if self._skip("except"):
            self._skip("by")
            ways = self._ways(self._until())
        return Passes(sources, targets, ways, must=False)

    def _reaches_only(self, who: list[str]) -> Passes:
        targets = self._communities(self._until("only"))
        self._expect("only")
        self._expect("by")
        return Passes(self._communities(who), targets, self._ways(self._until()), must=True)

    def _reach(self, who: list[str], can: bool, only: bool) -> MayReach:
        targets = self._communities(self._until("by"))
        services = tuple(self._service(word) for word in _items(self._until())) if self._skip("by") else ()
        if who == ["nobody"]:
            return MayReach(tuple(self.infrastructure.communities), targets, services, not can, only)
        return MayReach(self._communities(who), targets, services, can, only)

    # words

    def _skip(self, word: str) -> bool:
        if self.words and self.words[0] == word:
            del self.words[0]
            return True
        return False

    def _expect(self, word: str) -> None:
        found = self._next(f'"{word}"')
        if found != word:
            raise StatementError(f'"{found}" stands where "{word}" should', f'write "{word}"')

    def _next(self, wanted: str) -> str:
        if not self.words:
            raise StatementError(
                f"the statement ends where {wanted} should follow", "`A cannot write SHARE`, for example"
            )
        return self.words.pop(0)

    def _until(self, *ends: str) -> list[str]:
        taken = []
        while self.words and self.words[0] not in ends:
            taken.append(self.words.pop(0))
        if not taken:
            raise StatementError("a name is missing" + (f' before "{self.words[0]}"' if self.words else ""), "add it")
        return taken

    # names

    def _operations(self) -> tuple[Operation, ...]:
        operations: list[Operation] = []
        names = [operation.value for operation in Operation]
        while self.words and self.words[0] in {*names, *_JOINERS}:
            word = self.words.pop(0)
            if word not in _JOINERS:
                operations.append(Operation(word))
        if not operations:
            word = self._next("read, write, append, execute or reach")
            close = nearest(word, [*names, "reach"])
            right = f'did you mean "{close}"?' if close else "write read, write, append, execute or reach"
            raise StatementError(f'unknown operation "{word}"', right)
        return tuple(dict.fromkeys(operations))

    def _shares(self, words: list[str]) -> tuple[str, ...]:
        if words in (["anything"], ["everything"]):
            return tuple(self.infrastructure.shares)
        return tuple(_known(word, self.infrastructure.shares, "share") for word in _items(words))

    def _communities(self, words: list[str]) -> tuple[str, ...]:
        if words == ["everybody"]:
            return tuple(self.infrastructure.communities)
        return tuple(_known(word, self.infrastructure.communities, "community") for word in _items(words))

    def _subjects(self, words: list[str]) -> tuple[Subject, ...]:
        if words in (["everybody"], ["nobody"]):
            return self._everybody()
        return tuple(subject for word in _items(words) for subject in self._subject(word))

    def _everybody(self) -> tuple[Subject, ...]:
        return tuple(Subject(name) for name in self.infrastructure.communities)

    def _subject(self, word: str) -> list[Subject]:
        community, colon, user = word.partition(":")
        if colon:
            _known(community, self.infrastructure.communities, "community")
            _known(user, self.infrastructure.users, "user")
            if community not in self.infrastructure.users[user].communities:
                raise StatementError(f"{user} is not in {community}", "name a member")
            return [Subject(community, user)]
        if word in self.infrastructure.communities or word not in self.infrastructure.users:
            return [Subject(_known(word, self.infrastructure.communities, "community"))]
        return [Subject(name, word) for name in self.infrastructure.users[word].communities]

    def _service(self, word: str) -> str:
        if _NUMBERED_SERVICE.fullmatch(word):
            return word
        return _known(word, {**WELL_KNOWN, **self.infrastructure.services}, "service")

    def _ways(self, words: list[str]) -> tuple[Way, ...]:
        ways: list[Way] = []
        waiting = [word for word in words if word not in _JOINERS]
        while waiting:
            word = waiting.pop(0)
            kind = WayKind(word) if word in set(WayKind) and waiting else None
            way = self._way(kind, waiting.pop(0) if kind else word)
            if way.kind is WayKind.SERVICE and waiting[:1] == ["read"]:
                del waiting[0]
                way = Way(way.kind, way.name, read_only=True)
            ways.append(way)
        return tuple(ways)

    def _way(self, kind: WayKind | None, name: str) -> Way:
        tables: dict[WayKind, Iterable[str]] = {
            WayKind.SHARE: self.infrastructure.shares,
            WayKind.COMMUNITY: self.infrastructure.communities,
            WayKind.USER: self.infrastructure.users,
            WayKind.SERVICE: {**WELL_KNOWN, **self.infrastructure.services},
        }
        if _NUMBERED_SERVICE.fullmatch(name):
            return Way(WayKind.SERVICE, name)
        found = [candidate for candidate, names in tables.items() if name in names and kind in (None, candidate)]
        if len(found) > 1:
            meanings = " or ".join(f"`{candidate} {name}`" for candidate in found)
            raise StatementError(f'"{name}" means several things', f"write {meanings}")
        if not found:
            everything = [known for names in tables.values() for known in names]
            close = nearest(name, everything[:5000])
            right = f'did you mean "{close}"?' if close else "name a share, a user, a service or a community"
            raise StatementError(f'unknown name "{name}"', right)
        return Way(found[0], name)


def _items(words: list[str]) -> list[str]:
    return list(dict.fromkeys(word for word in words if word not in _JOINERS))


def _known(word: str, names: Iterable[str], what: str) -> str:
    if word in names:
        return word
    known = list(names)
    close = nearest(word, known[:5000])
    right = (
        f'did you mean "{close}"?' if close else f"known: {', '.join(known[:6])}" if known else f"declare the {what}"
    )
    raise StatementError(f'unknown {what} "{word}"', right)
