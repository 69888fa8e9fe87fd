# SPDX-License-Identifier: GPL-2.0-or-later
"""The few parts of ELF (System V gABI, 64-bit little-endian) that the kernel and modules need. Trusted files only."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
PT_LOAD = 1
SHT_SYMTAB = 2
SHT_RELA = 4
SHT_NOBITS = 8
SHF_WRITE = 1
SHF_ALLOC = 2
SHF_EXECINSTR = 4
SHN_UNDEF = 0
SHN_ABS = 0xFFF1


@dataclass(frozen=True, slots=True)
class Section:
    """A section header; `offset` and `size` in bytes of the file (SHT_NOBITS: no bytes in it)."""

    index: int
    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """An entry of the symbol table."""

    name: str
    binding: int
    kind: int
    section: int
    value: int
    size: int


class Elf:
    """An ELF file's sections and symbols. Raises ValueError when it is no 64-bit little-endian ELF."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        if bytes(self.data[:6]) != b"\x7fELF\x02\x01":
            raise ValueError("not a 64-bit little-endian ELF file")
        header = _HEADER.unpack_from(self.data)
        self._program_headers = header[5], header[9], header[10]
        self.section_end = header[6] + header[11] * header[12]
        raw = [_SECTION.unpack_from(self.data, header[6] + n * header[11]) for n in range(header[12])]
        names = raw[header[13]]
        self.sections = tuple(
            Section(n, self._string(names[4] + s[0]), s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8])
            for n, s in enumerate(raw)
        )
        self.by_name = {section.name: section for section in self.sections}

    def _string(self, at: int) -> str:
        end = at
        while self.data[end]:
            end += 1
        return bytes(self.data[at:end]).decode()

    def content(self, name: str) -> memoryview:
        """The bytes of a section; none when there is no such section or it has none in the file."""
        section = self.by_name.get(name)
        if section is None or section.type == SHT_NOBITS:
            return self.data[:0]
        return self.data[section.offset : section.offset + section.size]

    def at(self, address: int, size: int) -> memoryview:
        """The bytes at a link address. Raises KeyError when no section holds them all."""
        for section in self.sections:
            into = address - section.address
            if section.flags & SHF_ALLOC and section.type != SHT_NOBITS and 0 <= into <= section.size - size:
                return self.data[section.offset + into : section.offset + into + size]
        raise KeyError(f"no section holds {size} bytes at {address:#x}")

    def image(self, start: int, end: int) -> memoryview:
        """The bytes between two link addresses of one loaded segment, gaps between its sections included."""
        for kind, _, offset, address, _, size, _, _ in self._segments():
            if kind == PT_LOAD and address <= start <= end <= address + size:
                return self.data[offset + start - address : offset + end - address]
        raise KeyError(f"no segment holds {start:#x} to {end:#x}")

    def _segments(self) -> Iterator[tuple[int, ...]]:
        at, size, count = self._program_headers
        return _SEGMENT.iter_unpack(self.data[at : at + size * count])

    def u64(self, address: int) -> int:
        """The word at a link address. Raises KeyError."""
        return int.from_bytes(self.at(address, 8), "little")

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """The symbol table, in order; empty for a stripped file."""
        table = next((s for s in self.sections if s.type == SHT_SYMTAB), None)
        if table is None:
            return ()
        strings = self.sections[table.link].offset
        return tuple(
            Symbol(self._string(strings + name), info >> 4, info & 0xF, section, value, size)
            for name, info, _, section, value, size in _SYMBOL.iter_unpack(
                self.data[table.offset : table.offset + table.size]
            )
        )
