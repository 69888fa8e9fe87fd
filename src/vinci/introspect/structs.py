# SPDX-License-Identifier: GPL-2.0-or-later
"""Structs of the guest's kernel, read at once by the names of their members."""

from __future__ import annotations

import struct
from functools import lru_cache

from vinci.introspect.btf import Layout
from vinci.introspect.guest import Guest

_MASK = 0xFFFF_FFFF_FFFF_FFFF


class StructReader:
    """Reads one kind of struct at once and picks fields by offsets taken once.

    `StructReader(layout, "module", "name", "state", "core_layout.base")`; only the span of these fields is read.
    Unsigned integers for members of 1, 2, 4 or 8 bytes (bit fields too), bytes for the rest.
    """

    def __init__(self, layout: Layout, name: str, *paths: str) -> None:
        self.size = layout.size(name)
        fields = [layout.field(name, path) for path in paths]
        self._start = min(at.offset for at in fields)
        self._span = max(at.offset + at.size for at in fields) - self._start
        self._picks = [(at.offset - self._start, at.size, at.bit, at.bit_size) for at in fields]
        self._integers = all(at.size in _CODES for at in fields)
        self._at_once = _at_once(self._picks)

    def read(self, guest: Guest, address: int) -> tuple[int | bytes, ...]:
        """The fields' values, in the order in which they were named. Raises Unreadable, OverBudget."""
        if self._at_once is None:
            raw = guest.read(address + self._start & _MASK, self._span)
            return tuple(_pick(raw, *where) for where in self._picks)
        code, order = self._at_once
        found = guest.unpack(code, address + self._start & _MASK)
        return tuple([found[number] for number in order])

    def words(self, guest: Guest, address: int) -> tuple[int, ...]:
        """As `read`, when all fields are integers. Raises Unreadable, OverBudget; TypeError when one is none."""
        if not self._integers:
            raise TypeError("not all of the fields are integers")
        return self.read(guest, address)  # type: ignore[return-value]


def _at_once(picks: list[tuple[int, int, int, int]]) -> tuple[struct.Struct, tuple[int, ...]] | None:
    """The form of all fields together, and which of its values each field is; None for bit fields, or shared bytes."""
    form, end = "<", 0
    ascending = sorted(range(len(picks)), key=lambda number: picks[number][0])
    for number in ascending:
        offset, size, _, bits = picks[number]
        if bits or offset < end:
            return None
        form, end = f"{form}{offset - end}x{_CODES.get(size, f'{size}s')}", offset + size
    return struct.Struct(form), tuple(ascending.index(number) for number in range(len(picks)))


@lru_cache(maxsize=256)
def struct_reader(layout: Layout, name: str, *paths: str) -> StructReader:
    """The reader of these fields, made once."""
    return StructReader(layout, name, *paths)


_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _pick(raw: bytes, offset: int, size: int, bit: int, bit_size: int) -> int | bytes:
    part = raw[offset : offset + size]
    if bit_size:
        return int.from_bytes(raw[offset : offset + size + 1], "little") >> bit & ((1 << bit_size) - 1)
    return int.from_bytes(part, "little") if size in _CODES else part
