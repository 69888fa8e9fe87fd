# SPDX-License-Identifier: GPL-2.0-or-later
"""A certified kernel module: its file laid out and relocated as the kernel's loader does (kernel/module/main.c)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vinci.images.build import OWN_MODULE
from vinci.introspect.memory import PAGE_SIZE
from vinci.introspect.profile.elf import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHN_ABS,
    SHN_UNDEF,
    SHT_NOBITS,
    SHT_RELA,
    Elf,
    Section,
    Symbol,
)
from vinci.introspect.sites import Code

_RO_AFTER_INIT = 0x0020_0000
_UNALLOCATED = (".modinfo", "__versions")
"""The loader takes these sections' SHF_ALLOC away; and that of `.data..percpu`, which it puts elsewhere."""
PER_CPU = ".data..percpu"
_ORDER = (
    (SHF_EXECINSTR | SHF_ALLOC, 0),
    (SHF_ALLOC, SHF_WRITE),
    (_RO_AFTER_INIT | SHF_ALLOC, 0),
    (SHF_WRITE | SHF_ALLOC, 0),
)
"""layout_sections(): in that order, flags that a section must and must not have; a size is rounded up after each."""
_MASK = 0xFFFF_FFFF_FFFF_FFFF  # addresses come from the guest
_WEAK = 2
_NOTYPE, _OBJECT, _FUNCTION = range(3)
_RELA = np.dtype([("at", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_POINTER = 1
"""R_X86_64_64."""
_WIDTHS = {1: (8, False), 2: (4, True), 4: (4, True), 10: (4, False), 11: (4, False), 24: (8, True)}
"""R_X86_64_64, PC32, PLT32, 32, 32S, PC64: bytes, and whether relative to the place. PLT32 is PC32 in the kernel."""

Resolve = Callable[[str], int]
"""The address of a symbol of the kernel or of another module. Raises KeyError."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the sections of one part lie: offset by section index; sizes of text, of text and read-only, of all."""

    offsets: dict[int, int]
    text: int
    read_only: int
    size: int


class ModuleFile:
    """A `.ko` file. Raises ValueError when it is not what this kernel's loader takes."""

    def __init__(self, data: bytes) -> None:
        self.elf = Elf(data)
        self.core = self._layout(init=False)
        self.init = self._layout(init=True)

    @cached_property
    def name(self) -> str:
        """The name by which the kernel knows it (`.modinfo`)."""
        fields = bytes(self.elf.content(".modinfo")).split(b"\0")
        return next(field[5:].decode() for field in fields if field.startswith(b"name="))

    @cached_property
    def unlinked_text(self) -> npt.NDArray[np.uint8]:
        """The core part's text as it is in the file."""
        return self._image(self.core)[: self.core.text]

    @cached_property
    def unlinked_init(self) -> npt.NDArray[np.uint8]:
        """The initialisation's text as it is in the file."""
        return self._image(self.init)[: self.init.text]

    @property
    def own(self) -> bool:
        """Whether it is our livepatch, which was built with the images."""
        return self.name == OWN_MODULE

    def describe(self, offset: int) -> str:
        """`function+0x1c` for an offset into the core part."""
        starts = [
            (self.core.offsets[s.section] + s.value, s.name)
            for s in self.elf.symbols
            if s.section in self.core.offsets and s.name and s.kind in (_NOTYPE, _OBJECT, _FUNCTION)
        ]
        start, name = max((pair for pair in starts if pair[0] <= offset), default=(0, "start"))
        return f"{name}+{offset - start:#x}"

    @cached_property
    def functions(self) -> tuple[int, ...]:
        """The offsets into the core part at which its functions begin, ascending."""
        text = {index: offset for index, offset in self.core.offsets.items() if offset < self.core.text}
        return tuple(
            sorted({text[s.section] + s.value for s in self.elf.symbols if s.kind == _FUNCTION and s.section in text})
        )

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each symbol lies in the core part; the first of those that share a name."""
        found: dict[str, int] = {}
        for symbol in self.elf.symbols:
            if symbol.section in self.core.offsets:
                found.setdefault(symbol.name, self.core.offsets[symbol.section] + symbol.value)
        return found

    def _layout(self, *, init: bool) -> Layout:
        offsets: dict[int, int] = {}
        sizes: list[int] = []
        size = 0
        for wanted, unwanted in _ORDER:
            for section in self.elf.sections:
                flags = _flags(section)
                if section.name.startswith(".init") != init or section.index in offsets:
                    continue
                if flags & wanted == wanted and not flags & unwanted:
                    align = max(section.align, 1)
                    offsets[section.index] = -(-size // align) * align
                    size = offsets[section.index] + section.size
            size = -(-size // PAGE_SIZE) * PAGE_SIZE
            sizes.append(size)
        return Layout(offsets, sizes[0], sizes[1], size)

    @cached_property
    def exports(self) -> dict[str, Symbol]:
        """What other modules may use of it, by name."""
        names = {s.name.removeprefix("__ksymtab_") for s in self.elf.symbols if s.name.startswith("__ksymtab_")}
        return {s.name: s for s in self.elf.symbols if s.name in names and s.section != SHN_UNDEF}

    def addresses(self, base: int, init: int, per_cpu: int) -> dict[int, int]:
        """The address of each section, for the addresses of the module's parts."""
        found = {index: base + offset for index, offset in self.core.offsets.items()}
        found |= {index: init + offset for index, offset in self.init.offsets.items()}
        if PER_CPU in self.elf.by_name:
            found[self.elf.by_name[PER_CPU].index] = per_cpu
        return found

    def data_pointers(self) -> Iterator[tuple[int, Symbol, int]]:
        """Each pointer in what stays writable of the core part: its offset there, what it points to, an addend."""
        for section in self.elf.sections:
            start = self.core.offsets.get(section.info, -1)
            if section.type == SHT_RELA and start >= self.core.read_only:
                rows = self._relocations(section)
                for at, symbol, addend in rows[rows["type"] == _POINTER][["at", "symbol", "addend"]].tolist():
                    yield start + at, self.elf.symbols[symbol], addend

    def relocated(self, base: int, init: int, per_cpu: int, resolve: Resolve) -> tuple[Code, Code]:
        """The module's core and init parts as loaded there, before the kernel patches them.

        Raises KeyError for a symbol that `resolve` does not know, ValueError for a relocation that the kernel refuses.
        """
        addresses = self.addresses(base, init, per_cpu)
        core = self._image(self.core)
        startup = self._image(self.init)
        values = self._values(addresses, resolve)
        for section in self.elf.sections:
            if section.type == SHT_RELA and (section.info in self.core.offsets or section.info in self.init.offsets):
                part, image = (self.core, core) if section.info in self.core.offsets else (self.init, startup)
                at = part.offsets[section.info]
                target = image[at : at + self.elf.sections[section.info].size]
                _relocate(target, addresses[section.info], self._relocations(section), values)
        return Code(base, core), Code(init, startup)

    def _relocations(self, section: Section) -> npt.NDArray[np.void]:
        return np.frombuffer(self.elf.data[section.offset : section.offset + section.size], _RELA)

    def _image(self, layout: Layout) -> npt.NDArray[np.uint8]:
        image = np.zeros(layout.size, np.uint8)
        for index, offset in layout.offsets.items():
            section = self.elf.sections[index]
            if section.type != SHT_NOBITS:
                content = self.elf.data[section.offset : section.offset + section.size]
                image[offset : offset + section.size] = np.frombuffer(content, np.uint8)
        return image

    def _values(self, addresses: dict[int, int], resolve: Resolve) -> npt.NDArray[np.uint64]:
        """The value of each symbol (simplify_symbols)."""
        values = np.zeros(len(self.elf.symbols), np.uint64)
        for number, symbol in enumerate(self.elf.symbols):
            if symbol.section == SHN_UNDEF:
                values[number] = self._outside(symbol, resolve) & _MASK if symbol.name else 0
            elif symbol.section == SHN_ABS:
                values[number] = symbol.value
            elif symbol.section in addresses:
                values[number] = addresses[symbol.section] + symbol.value & _MASK
        return values

    @staticmethod
    def _outside(symbol: Symbol, resolve: Resolve) -> int:
        try:
            return resolve(symbol.name)
        except KeyError:
            if symbol.binding == _WEAK:
                return 0
            raise


def _flags(section: Section) -> int:
    if section.name in _UNALLOCATED or section.name == PER_CPU:
        return section.flags & ~SHF_ALLOC
    if section.name in (".data..ro_after_init", "__jump_table"):
        return section.flags | _RO_AFTER_INIT
    return section.flags


def _relocate(
    target: npt.NDArray[np.uint8], address: int, relocations: npt.NDArray[np.void], values: npt.NDArray[np.uint64]
) -> None:
    """apply_relocate_add() in arch/x86/kernel/module.c, in place."""
    for kind in np.unique(relocations["type"]).tolist():
        if kind == 0:
            continue
        if kind not in _WIDTHS:
            raise ValueError(f"relocation of type {kind}")
        width, relative = _WIDTHS[kind]
        rows = relocations[relocations["type"] == kind]
        value = values[rows["symbol"]] + rows["addend"].astype(np.uint64)
        if relative:
            value = value - rows["at"] - np.uint64(address)
        content = value.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
        target[rows["at"].astype(np.int64)[:, None] + np.arange(width)] = content
