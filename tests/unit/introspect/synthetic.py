# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose memory and types the test writes: 4 MiB of RAM, mapped straight at `BASE`."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import cast

import numpy as np

from vinci.introspect.btf import Btf, Kind, Layout
from vinci.introspect.guest import Guest
from vinci.introspect.memory import GuestMemory, Region
from vinci.introspect.paging import LARGE, PRESENT, WRITABLE, AddressSpace
from vinci.introspect.profile import Profile
from vinci.introspect.profile.elf import Elf
from vinci.introspect.symbols import Symbols

BASE = 0xFFFF_8880_0000_0000
SIZE = 4 << 20
_LARGE_PAGE = 2 << 20


class Types:
    """Writes structs of integers and bytes as BTF."""

    def __init__(self) -> None:
        self._types, self._strings, self._count = b"", b"\0", 0
        self._int = {size: self._add(Kind.INT, f"u{8 * size}", size, 8 * size) for size in (1, 2, 4, 8)}

    def _text(self, name: str) -> int:
        at = len(self._strings)
        self._strings += name.encode() + b"\0"
        return at

    def _add(self, kind: Kind, name: str, size: int, *tail: int, vlen: int = 0) -> int:
        self._types += struct.pack("<III", self._text(name), kind << 24 | vlen, size)
        self._types += struct.pack(f"<{len(tail)}I", *tail)
        self._count += 1
        return self._count

    def struct(self, name: str, size: int, **members: tuple[int, int]) -> None:
        """A struct; members by name: offset and size in bytes."""
        kinds = []
        for offset, width in members.values():
            kinds.append(
                (self._int.get(width) or self._add(Kind.ARRAY, "", 0, self._int[1], self._int[4], width), offset)
            )
        tail = [
            word
            for member, (kind, offset) in zip(members, kinds, strict=True)
            for word in (self._text(member), kind, offset * 8)
        ]
        self._add(Kind.STRUCT, name, size, *tail, vlen=len(members))

    def layout(self) -> Layout:
        """The types so far."""
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self._types), len(self._types), len(self._strings))
        return Layout(Btf(header + self._types + self._strings))


def guest(types: Types | None = None) -> tuple[Guest, bytearray]:
    """A guest and its RAM, whose last three pages are the page tables."""
    ram = bytearray(SIZE)
    root, upper, lower = (SIZE - 4096 * number for number in (1, 2, 3))
    for table, index, entry in (
        (root, BASE >> 39 & 511, upper | PRESENT | WRITABLE),
        (upper, BASE >> 30 & 511, lower | PRESENT | WRITABLE),
        *((lower, number, number * _LARGE_PAGE | PRESENT | WRITABLE | LARGE) for number in range(SIZE // _LARGE_PAGE)),
    ):
        struct.pack_into("<Q", ram, table + 8 * index, entry)
    none = np.zeros(0, np.uint64)
    symbols = Symbols(np.array([0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8200_0000], np.uint64), b"_text\n_end")
    layout = (types or Types()).layout()
    profile = Profile(Path(), "", cast(Elf, None), layout, symbols, none, none, none)
    return Guest(GuestMemory(ram, (Region(0, SIZE, 0),)), profile, (), 0, 0, AddressSpace(root, 4)), ram


def put(ram: bytearray, address: int, *words: int) -> None:
    """Write 64-bit words at a virtual address."""
    struct.pack_into(f"<{len(words)}Q", ram, address - BASE, *words)
