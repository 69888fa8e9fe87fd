# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel types from the trusted image's `.BTF` section: offsets and sizes of struct members.

Format: linux/Documentation/bpf/btf.rst. Only trusted files are parsed here, never guest memory.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_WORDS_AFTER = {1: 1, 3: 3, 14: 1, 17: 1}
"""Kinds with a fixed tail, in 32-bit words: INT, ARRAY, VAR, DECL_TAG."""
_WORDS_EACH = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}
"""Kinds with a tail for each of their `vlen` members, in words: STRUCT, UNION, ENUM, FUNC_PROTO, DATASEC, ENUM64."""
_POINTER_SIZE = 8


class Kind(IntEnum):
    """What a BTF type is."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_QUALIFIERS = {Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG}


@dataclass(frozen=True, slots=True)
class Member:
    """A struct's member: `bits` is its offset in bits; `bit_size` is 0 unless it is a bit field."""

    name: str
    type: int
    bits: int
    bit_size: int


@dataclass(frozen=True, slots=True)
class Type:
    """One record; `size` is meant for INT, STRUCT, UNION, ENUM, FLOAT and DATASEC, `target` for the others."""

    id: int
    kind: Kind
    name: str
    vlen: int
    kind_flag: bool
    size: int
    target: int


class Btf:
    """The records of a `.BTF` section, decoded when they are asked for.

    Raises ValueError when `data` is not BTF of little-endian version 1.
    """

    def __init__(self, data: bytes) -> None:
        magic, version, _, header, type_at, type_size, string_at, string_size = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise ValueError("not a BTF section of version 1")
        self._strings = data[header + string_at : header + string_at + string_size]
        self._words = np.frombuffer(data, "<u4", type_size // 4, header + type_at)
        self._at = _record_starts(self._words)
        self._ids: dict[tuple[Kind, str], int] = {}
        for number, at in enumerate(self._at):
            kind = Kind(int(self._words[at + 1]) >> 24 & 0x1F)
            if name := int(self._words[at]):
                self._ids.setdefault((kind, self._string(name)), number + 1)

    def __len__(self) -> int:
        """How many types there are, without void; their ids begin with 1."""
        return len(self._at)

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def find(self, name: str, *kinds: Kind) -> int:
        """The id of the first type of that name and one of the `kinds`. Raises KeyError."""
        for kind in kinds:
            if (kind, name) in self._ids:
                return self._ids[kind, name]
        raise KeyError(f"{'/'.join(kind.name.lower() for kind in kinds)} {name}")

    def type(self, number: int) -> Type:
        """The record with that id; id 0 is void."""
        if number == 0:
            return Type(0, Kind.VOID, "void", 0, False, 0, 0)
        name, info, size = (int(word) for word in self._words[self._at[number - 1] :][:3])
        kind = Kind(info >> 24 & 0x1F)
        return Type(number, kind, self._string(name), info & 0xFFFF, bool(info >> 31), size, size)

    def tail(self, of: Type, words_each: int) -> Iterator[tuple[int, ...]]:
        """The words behind a record, in groups: `words_each` for each of its `vlen` members."""
        start = int(self._at[of.id - 1]) + 3
        for at in range(start, start + words_each * max(of.vlen, 1), words_each):
            yield tuple(int(word) for word in self._words[at : at + words_each])

    def members(self, of: Type) -> Iterator[Member]:
        """The members of a struct or union, in order."""
        if of.vlen == 0:
            return
        for name, target, offset in self.tail(of, 3):
            bits, width = (offset & 0xFFFFFF, offset >> 24) if of.kind_flag else (offset, 0)
            yield Member(self._string(name), target, bits, width)

    def array(self, of: Type) -> tuple[int, int]:
        """Element type and length of an array."""
        element, _, length = next(self.tail(of, 3))
        return element, length

    def enumerators(self, of: Type) -> Iterator[tuple[str, int]]:
        """Names and values of an enumeration."""
        for words in self.tail(of, 2 if of.kind is Kind.ENUM else 3):
            value = words[1] | (words[2] << 32 if of.kind is Kind.ENUM64 else 0)
            width = 32 if of.kind is Kind.ENUM else 64
            yield self._string(words[0]), value - (1 << width) if of.kind_flag and value >> (width - 1) else value

    def strip(self, number: int) -> Type:
        """The type behind typedefs and qualifiers."""
        record = self.type(number)
        while record.kind in _QUALIFIERS:
            record = self.type(record.target)
        return record

    def size(self, number: int) -> int:
        """Size in bytes of a type."""
        record = self.strip(number)
        if record.kind is Kind.PTR:
            return _POINTER_SIZE
        if record.kind is Kind.ARRAY:
            element, length = self.array(record)
            return self.size(element) * length
        if record.kind in (Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT):
            return record.size
        return 0


def _record_starts(words: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    starts: list[int] = []
    infos = words.tolist()
    at, end = 0, len(infos)
    while at + 3 <= end:
        starts.append(at)
        info = infos[at + 1]
        kind = info >> 24 & 0x1F
        at += 3 + _WORDS_AFTER.get(kind, 0) + _WORDS_EACH.get(kind, 0) * (info & 0xFFFF)
    if at != end:
        raise ValueError("the BTF types do not end where their section does")
    return np.array(starts, np.uint32)


@dataclass(frozen=True, slots=True)
class Field:
    """Where a member lies: `offset` and `size` in bytes; for a bit field `bit` within `offset` and `bit_size` > 0."""

    offset: int
    size: int
    bit: int = 0
    bit_size: int = 0


_STEP = re.compile(r"(\w+)((?:\[\d+\])*)")


class Layout:
    """Offsets and sizes by name: `layout.offset("task_struct", "tasks.next")`."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.field = lru_cache(maxsize=None)(self._field)
        self.size = lru_cache(maxsize=None)(self._size)
        self.enumerator = lru_cache(maxsize=None)(self._enumerator)

    def _size(self, struct_name: str) -> int:
        """Size in bytes of a struct, union or typedef. Raises KeyError."""
        return self.btf.size(self._id(struct_name))

    def offset(self, struct_name: str, path: str) -> int:
        """Offset in bytes of a member. Raises KeyError; ValueError for a bit field."""
        field = self.field(struct_name, path)
        if field.bit_size:
            raise ValueError(f"{struct_name}.{path} is a bit field")
        return field.offset

    def _enumerator(self, enum_name: str, name: str) -> int:
        """The value of one name of an enumeration. Raises KeyError."""
        record = self.btf.type(self.btf.find(enum_name, Kind.ENUM, Kind.ENUM64))
        return dict(self.btf.enumerators(record))[name]

    def _id(self, name: str) -> int:
        return self.btf.find(name, Kind.STRUCT, Kind.UNION, Kind.TYPEDEF, Kind.INT)

    def _field(self, struct_name: str, path: str) -> Field:
        """Where the member lies that `path` names: members joined by `.`, elements as `[3]`, anonymous ones left out.

        Raises KeyError when there is no such member.
        """
        number, bits, width = self._id(struct_name), 0, 0
        for step in path.split("."):
            matched = _STEP.fullmatch(step)
            member = matched and self._member(number, matched[1])
            if not matched or not member:
                raise KeyError(f"{struct_name}.{path}: no {step}")
            number, bits, width = member.type, bits + member.bits, member.bit_size
            for index in re.findall(r"\d+", matched[2]):
                number, _ = self.btf.array(self.btf.strip(number))
                bits += int(index) * self.btf.size(number) * 8
        return Field(bits // 8, self.btf.size(number), bits % 8, width)

    def _member(self, number: int, name: str) -> Member | None:
        """The member of that name, also one inside anonymous members; its offset counts from the outer struct."""
        for member in self.btf.members(self.btf.strip(number)):
            if member.name == name:
                return member
            if not member.name and self.btf.strip(member.type).kind in (Kind.STRUCT, Kind.UNION):
                inner = self._member(member.type, name)
                if inner:
                    return Member(name, inner.type, member.bits + inner.bits, inner.bit_size)
        return None
