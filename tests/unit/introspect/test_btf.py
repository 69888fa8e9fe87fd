# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts from a small BTF section that the test writes itself."""

from __future__ import annotations

import struct

import pytest

from vinci.introspect.btf import Btf, Field, Kind, Layout


class Writer:
    """Writes BTF records; ids are given in order, from 1."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"
        self.count = 0

    def text(self, name: str) -> int:
        if not name:
            return 0
        at = len(self.strings)
        self.strings += name.encode() + b"\0"
        return at

    def add(self, kind: Kind, name: str, size: int, *tail: int, vlen: int = 0, flag: int = 0) -> int:
        self.types += struct.pack("<III", self.text(name), flag << 31 | kind << 24 | vlen, size)
        self.types += struct.pack(f"<{len(tail)}I", *tail)
        self.count += 1
        return self.count

    def struct(
        self, name: str, size: int, *members: tuple[str, int, int], kind: Kind = Kind.STRUCT, flag: int = 0
    ) -> int:
        tail = [word for member, of, at in members for word in (self.text(member), of, at)]
        return self.add(kind, name, size, *tail, vlen=len(members), flag=flag)

    def section(self) -> bytes:
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return header + self.types + self.strings


@pytest.fixture
def layout() -> Layout:
    w = Writer()
    word = w.add(Kind.INT, "unsigned int", 4, 32)
    pointer = w.add(Kind.PTR, "", 0)
    head = w.struct("list_head", 16, ("next", pointer, 0), ("prev", pointer, 64))
    heads = w.add(Kind.ARRAY, "", 0, head, word, 3)
    const = w.add(Kind.CONST, "", heads)
    union = w.struct("", 8, ("low", word, 0), ("whole", pointer, 0), kind=Kind.UNION)
    w.add(Kind.ENUM, "state", 4, w.text("LIVE"), 0, w.text("GONE"), 0xFFFFFFFF, vlen=2, flag=1)
    w.struct("task", 72, ("", union, 0), ("lists", const, 128), ("last", word, 512))
    w.struct("flags", 4, ("first", word, 1 << 24), ("three", word, 3 << 24 | 1), flag=1)
    w.add(Kind.TYPEDEF, "task_t", w.count - 1)
    return Layout(Btf(w.section()))


def test_members_arrays_and_anonymous_unions_are_found(layout: Layout) -> None:
    assert layout.size("task_t") == layout.size("task") == 72
    assert layout.offset("task", "whole") == 0
    assert layout.offset("task", "lists[2].prev") == 16 + 2 * 16 + 8
    assert layout.field("task", "lists") == Field(16, 48)
    assert layout.field("task_t", "last") == Field(64, 4)


def test_bit_fields_have_a_place_in_bits_but_no_offset(layout: Layout) -> None:
    assert layout.field("flags", "three") == Field(0, 4, bit=1, bit_size=3)
    with pytest.raises(ValueError, match="bit field"):
        layout.offset("flags", "three")


def test_enumerators_keep_their_sign(layout: Layout) -> None:
    assert layout.enumerator("state", "GONE") == -1


@pytest.mark.parametrize("path", ["nothing", "lists.next.prev", "low.more", "lists[x]"])
def test_a_member_that_does_not_exist_is_a_key_error(layout: Layout, path: str) -> None:
    with pytest.raises(KeyError):
        layout.offset("task", path)


def test_what_is_not_btf_is_refused() -> None:
    section = Writer().section()
    with pytest.raises(ValueError, match="not a BTF section"):
        Btf(b"\0\0" + section[2:])
