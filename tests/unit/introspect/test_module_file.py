# SPDX-License-Identifier: GPL-2.0-or-later
"""A module's file laid out and relocated, on a small ELF object that the test writes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from vinci.introspect.profile.module_file import ModuleFile

ALLOC, WRITE, EXEC, INIT_RO = 2, 1, 4, 0x0020_0000
PROGBITS, SYMTAB, STRTAB, RELA, NOBITS = 1, 2, 3, 4, 8
BASE, INIT, PER_CPU = 0xFFFF_FFFF_C010_0000, 0xFFFF_FFFF_C020_0000, 0x2_0000


@dataclass
class Object:
    """Sections and symbols of a relocatable ELF file."""

    sections: list[tuple[str, int, int, bytes, int, int]] = field(default_factory=lambda: [("", 0, 0, b"", 0, 0)])
    symbols: list[bytes] = field(default_factory=lambda: [bytes(24)])
    names: bytes = b"\0"

    def section(
        self, name: str, flags: int, content: bytes, kind: int = PROGBITS, info: int = 0, align: int = 16
    ) -> int:
        self.sections.append((name, kind, flags, content, info, align))
        return len(self.sections) - 1

    def symbol(self, name: str, section: int, value: int = 0, binding: int = 1) -> int:
        self.symbols.append(struct.pack("<IBBHQQ", len(self.names), binding << 4, 0, section, value, 0))
        self.names += name.encode() + b"\0"
        return len(self.symbols) - 1

    def relocate(self, section: int, *rows: tuple[int, int, int, int]) -> None:
        """Offset, type, symbol and addend."""
        content = b"".join(struct.pack("<QIIq", at, kind, symbol, addend) for at, kind, symbol, addend in rows)
        self.section(f".rela{self.sections[section][0]}", 0, content, RELA, section)

    def file(self) -> bytes:
        strings = self.section(".strtab", 0, self.names, STRTAB)
        table = self.section(".symtab", 0, b"".join(self.symbols), SYMTAB)
        names = b"".join(name.encode() + b"\0" for name, *_ in self.sections) + b".shstrtab\0"
        last = self.section(".shstrtab", 0, names, STRTAB)
        body, headers, at = b"", b"", 0
        for number, (name, kind, flags, content, info, align) in enumerate(self.sections):
            link = strings if number == table else 0
            offset = 64 + len(body)
            headers += struct.pack("<IIQQQQIIQQ", at, kind, flags, 0, offset, len(content), link, info, align, 0)
            body += b"" if kind == NOBITS else content
            at += len(name) + 1
        count = len(self.sections)
        start = 64 + len(body)
        head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, count, last)
        return head + body + headers


@pytest.fixture
def parts() -> tuple[ModuleFile, dict[str, int]]:
    o = Object()
    s = {
        "data": o.section(".data", ALLOC | WRITE, bytes(24)),
        "text": o.section(".text", ALLOC | EXEC, b"\x90" * 40),
        "init": o.section(".init.text", ALLOC | EXEC, b"\x90" * 8),
        "rodata": o.section(".rodata", ALLOC, b"constant"),
        "modinfo": o.section(".modinfo", ALLOC, b"license=GPL\0name=example\0"),
        "jumps": o.section("__jump_table", ALLOC | WRITE, bytes(16), align=8),
        "cold": o.section(".text.unlikely", ALLOC | EXEC, b"\xc3", align=1),
        "percpu": o.section(".data..percpu", ALLOC | WRITE, bytes(8)),
        "bss": o.section(".bss", ALLOC | WRITE, bytes(5000), NOBITS),
    }
    own = o.symbol("local", s["data"], 8)
    kernel = o.symbol("printk", 0)
    weak = o.symbol("maybe", 0, binding=2)
    counter = o.symbol("counter", s["percpu"], 4)
    o.symbol("offered", s["text"], 16)
    o.symbol("__ksymtab_offered", s["rodata"])
    o.relocate(s["text"], (1, 4, kernel, -4), (8, 11, own, 0), (16, 2, counter, -4), (24, 1, own, 3), (32, 10, weak, 5))
    o.relocate(s["modinfo"], (0, 1, kernel, 0))  # not loaded, so not relocated
    return ModuleFile(o.file()), s


def resolve(name: str) -> int:
    return {"printk": 0xFFFF_FFFF_8100_0100}[name]


def test_sections_lie_in_the_loaders_order(parts: tuple[ModuleFile, dict[str, int]]) -> None:
    file, s = parts
    assert file.name == "example"
    where = file.core.offsets
    assert (where[s["text"]], where[s["cold"]], file.core.text) == (0, 40, 4096)
    assert (where[s["rodata"]], file.core.read_only) == (4096, 8192)
    assert where[s["jumps"]] == 8192  # read-only after initialisation, so on a page of its own
    assert (where[s["data"]], where[s["bss"]]) == (12288, 12320)
    assert file.core.size == 20480
    assert s["modinfo"] not in where
    assert s["percpu"] not in where
    assert file.init.offsets == {s["init"]: 0}


def test_each_relocation_is_applied(parts: tuple[ModuleFile, dict[str, int]]) -> None:
    file, s = parts
    core, init = file.relocated(BASE, INIT, PER_CPU, resolve)
    local = BASE + file.core.offsets[s["data"]] + 8

    def word(at: int, size: int) -> int:
        return int.from_bytes(core.at(BASE + at, size), "little")

    assert word(1, 4) == 0xFFFF_FFFF_8100_0100 - 4 - (BASE + 1) & 0xFFFFFFFF
    assert word(8, 4) == local & 0xFFFFFFFF
    assert word(16, 4) == PER_CPU + 4 - 4 - (BASE + 16) & 0xFFFFFFFF
    assert word(24, 8) == local + 3
    assert word(32, 4) == 5  # a weak symbol that nobody has
    assert core.at(BASE, 1) + core.at(BASE + 40, 1) == b"\x90\xc3"
    assert init.at(INIT, 8) == b"\x90" * 8


def test_what_it_offers_and_how_places_in_it_are_called(parts: tuple[ModuleFile, dict[str, int]]) -> None:
    file, _ = parts
    assert list(file.exports) == ["offered"]
    assert file.describe(20) == "offered+0x4"


def test_an_import_that_nobody_has_is_refused(parts: tuple[ModuleFile, dict[str, int]]) -> None:
    with pytest.raises(KeyError):
        parts[0].relocated(BASE, INIT, PER_CPU, {}.__getitem__)


def test_an_unknown_relocation_is_refused() -> None:
    o = Object()
    text = o.section(".text", ALLOC | EXEC, bytes(16))
    o.relocate(text, (0, 9, o.symbol("x", text), 0))
    with pytest.raises(ValueError, match="type 9"):
        ModuleFile(o.file()).relocated(BASE, INIT, 0, resolve)
