# SPDX-License-Identifier: GPL-2.0-or-later
"""YAML text as plain data, with the place of every key and item.

A stricter YAML than the library's: duplicate keys, tags and aliases (so no bombs of them) are errors, `no` and `12:30`
are words (YAML 1.2's core schema, not 1.1's), size and depth are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from yaml import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
    YAMLError,
)
from yaml.cyaml import CParser  # type: ignore[attr-defined]
from yaml.error import MarkedYAMLError
from yaml.reader import ReaderError

from vinci.model.problems import DeclarationError, ModelPath, Problem, shown

MAX_BYTES = 16 * 1024 * 1024
"""Largest file; 10,000 VMs with 10,000 users need 1.5 MB."""
MAX_DEPTH = 24
"""Deepest nesting; the model needs 8."""
MAX_PROBLEMS = 1000
"""Most problems that are told at once."""

UNTOLD = (f"there are more problems than these {MAX_PROBLEMS}, from here on", "mend these, and look again")
"""What is said in place of those that are left out."""

_UNSEEN = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Controls, marks of direction, and what YAML takes for the end of a line and most editors do not."""
_UNSEEN_IN_TEXT = re.compile(f"[{_UNSEEN}]|\r(?!\n)")
_UNSEEN_IN_VALUE = re.compile(f"[{_UNSEEN}\r]")
_UNSEEN_IN_KEY = re.compile(f"[{_UNSEEN}\r\n\t]")

_WORDS: dict[str, object] = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{1,18}")
_NUMBER_STARTS = frozenset("+-0123456789")
_COLUMN_BITS = 12
_COLUMN_MASK = (1 << _COLUMN_BITS) - 1

_Event = Any
"""One of the parser's events; the C extension is not typed closely enough for more."""

# A place is one number (line and column) for a scalar, a pair of that number and its children's places otherwise.
# A big file has hundreds of thousands of them: the parser's own marks would need 100 MB.
_Place = int | tuple[int, "dict[str, _Place] | list[_Place]"]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the file; counts from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where every key and list item of a file stands."""

    file: str
    _root: _Place = field(default=0, repr=False)

    def at(self, path: ModelPath) -> Position:
        """The place of `path`, or of the nearest enclosing value that the file has."""
        place = self._root
        for step in path:
            children = place[1] if isinstance(place, tuple) else None
            match children, step:
                case dict(), str() if step in children:
                    place = children[step]
                case list(), int() if 0 <= step < len(children):
                    place = children[step]
                case _:
                    break
        number = place[0] if isinstance(place, tuple) else place
        return Position(self.file, (number >> _COLUMN_BITS) + 1, (number & _COLUMN_MASK) + 1)


@dataclass(frozen=True, slots=True)
class Document:
    """The data of a file and its places. With `problems` it cannot be used, but the rest of it can be looked at."""

    data: dict[str, object]
    source: Source
    problems: tuple[Problem, ...] = ()


def read_yaml(file: str, untrusted_text: bytes) -> Document:
    """The document in `untrusted_text`; `file` is the name used in messages.

    Of duplicate keys the first counts. Raises DeclarationError where nothing can be said of the rest: broken YAML stops
    at its first problem, and an alias or a merge key stands for values that are not read.
    """
    if len(untrusted_text) > MAX_BYTES:
        raise _refusal(file, 1, 1, f"the file has more than {MAX_BYTES} bytes", "split it, or declare less")
    try:
        text = untrusted_text.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _line_of(untrusted_text, error.start)
        raise _refusal(file, line, column, "this is no UTF-8 text", "save the file as UTF-8") from None
    if unseen := _UNSEEN_IN_TEXT.search(text):
        before = text[: unseen.start()]
        column = len(before) - (before.rfind("\n") + 1) + 1
        raise _refusal(file, before.count("\n") + 1, column, *_told_of(unseen))
    reader = _Reader(file, CParser(text))
    try:
        data, place = reader.document()
    except ReaderError as error:
        line, column = _line_of(untrusted_text, error.position)
        raise _refusal(file, line, column, f"a character that YAML forbids: {error.reason}", "remove it") from None
    except MarkedYAMLError as error:
        raise _broken(file, text, error) from None
    except YAMLError as error:
        raise _refusal(file, 1, 1, f"broken YAML: {shown(str(error))}", "") from None
    if not isinstance(data, dict):
        raise _refusal(file, 1, 1, "the file holds no declaration", "it starts with `vinci: 1` and `name: …`")
    if reader.lacks_values:
        raise DeclarationError(reader.problems)
    return Document(data, Source(file, place), tuple(reader.problems))


def _refusal(file: str, line: int, column: int, wrong: str, right: str) -> DeclarationError:
    return DeclarationError([Problem(file, line, column, wrong, right)])


def _broken(file: str, text: str, error: MarkedYAMLError) -> DeclarationError:
    mark, began = error.problem_mark or error.context_mark, error.context_mark
    if mark is None:
        return _refusal(file, 1, 1, f"broken YAML: {error.problem}", "")
    if text[mark.index : mark.index + 1] == "\t":
        return _refusal(file, mark.line + 1, mark.column + 1, "a tab stands where YAML needs blanks", "write blanks")
    what = " ".join(part for part in (error.context, error.problem) if part)
    if began is not None and began.line != mark.line:
        what += f", in what begins in line {began.line + 1}"
    hint = "check indentation, quotes and brackets"
    return _refusal(file, mark.line + 1, mark.column + 1, f"broken YAML: {what}", hint)


def _told_of(unseen: re.Match[str]) -> tuple[str, str]:
    """Such a character could hide, from who reads the file or a proof of it, what stands there."""
    return f"U+{ord(unseen.group()):04X} stands here, which no reader sees", "remove it"


def _line_of(text: bytes, offset: int) -> tuple[int, int]:
    before = text[: max(offset, 0)]
    return before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1


class _Reader:
    """Turns the parser's events into data and places; collects problems.

    Events, not nodes: nothing but the result is kept, which at 10,000 VMs saves the garbage collector six times the
    parsing time, and the C stack does not grow with what the file nests.
    """

    def __init__(self, file: str, parser: CParser) -> None:
        self.file = file
        self.next: Callable[[], _Event] = parser.get_event
        self.problems: list[Problem] = []
        self.lacks_values = False

    def document(self) -> tuple[object, _Place]:
        """The one document of the stream."""
        result: tuple[object, _Place] = (None, 0)
        documents = 0
        while not isinstance(event := self.next(), StreamEndEvent):
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._complain(event, "a second document starts here", "one file is one document; remove `---`")
            elif not isinstance(event, (StreamStartEvent, DocumentEndEvent)):
                value = self._value(event, 0)
                result = result if documents > 1 else value
        return result

    def _value(self, event: _Event, depth: int) -> tuple[object, _Place]:
        place = _place(event)
        kind = type(event)
        if kind is ScalarEvent:
            return self._scalar(event), place
        if kind is AliasEvent:
            self._complain_of_lack(event, f"alias *{event.anchor} is not read", "write the value out")
            return None, place
        if depth >= MAX_DEPTH:
            raise DeclarationError(
                [*self.problems, self._problem(event, f"nested more than {MAX_DEPTH} deep", "a declaration needs 8")]
            )
        if event.tag is not None:
            self._complain(event, f"tag {shown(event.tag)} has no meaning here", "remove it")
        if kind is MappingStartEvent:
            return self._mapping(place, depth + 1)
        assert kind is SequenceStartEvent
        items, places = [], []
        while type(item := self.next()) is not SequenceEndEvent:
            value, item_place = self._value(item, depth + 1)
            items.append(value)
            places.append(item_place)
        return items, (place, places)

    def _mapping(self, here: int, depth: int) -> tuple[object, _Place]:
        data: dict[str, object] = {}
        places: dict[str, _Place] = {}
        while type(key := self.next()) is not MappingEndEvent:
            name = self._key(key, places, depth)
            value, place = self._value(self.next(), depth)
            if name is not None:
                data[name] = value
                at = _place(key)
                places[name] = (at, place[1]) if isinstance(place, tuple) else at
        return data, (here, places)

    def _key(self, event: _Event, seen: dict[str, _Place], depth: int) -> str | None:
        if type(event) is not ScalarEvent:
            self._complain_of_lack(event, "this key is no single word", "keys are single words")
            self._value(event, depth)
            return None
        name: str = event.value
        self._check_seen(event, _UNSEEN_IN_KEY)
        if name == "<<" and event.implicit[0]:
            self._complain_of_lack(event, "merge keys (<<) are not read", "write the values out")
            return None
        if name in seen:
            first = seen[name]
            line = ((first[0] if isinstance(first, tuple) else first) >> _COLUMN_BITS) + 1
            self._complain(event, f"duplicate key {shown(name)}", f"the first is in line {line}; keep one of them")
            return None
        return name

    def _scalar(self, event: _Event) -> object:
        text: str = event.value
        self._check_seen(event, _UNSEEN_IN_VALUE)
        if event.tag is not None:
            self._complain(event, f"tag {shown(event.tag)} has no meaning here", "remove it")
        elif event.implicit[0]:  # plain: neither quoted nor a block
            if text in _WORDS:
                return _WORDS[text]
            if text[0] in _NUMBER_STARTS:
                if _INTEGER.fullmatch(text):
                    return int(text)
                if _HEXADECIMAL.fullmatch(text):
                    return int(text, 16)
                if _FLOAT.fullmatch(text):
                    return float(text)
        return text

    def _check_seen(self, event: _Event, unseen: re.Pattern[str]) -> None:
        """Of what an escape stands for; what stands in the file itself was looked at before."""
        if found := unseen.search(event.value):
            self._complain(event, *_told_of(found))

    def _complain(self, event: _Event, wrong: str, right: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(self._problem(event, wrong, right))
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append(self._problem(event, *UNTOLD))

    def _complain_of_lack(self, event: _Event, wrong: str, right: str) -> None:
        """Of something that stands for values which the data lacks now: to look for those would be misleading."""
        self.lacks_values = True
        self._complain(event, wrong, right)

    def _problem(self, event: _Event, wrong: str, right: str) -> Problem:
        mark = event.start_mark
        return Problem(self.file, mark.line + 1, mark.column + 1, wrong, right)


def _place(event: _Event) -> int:
    mark = event.start_mark
    line: int = mark.line
    column: int = mark.column
    return line << _COLUMN_BITS | (column if column < _COLUMN_MASK else _COLUMN_MASK)
