# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's kernel as seen from outside: virtual addresses, symbols and structs over its physical memory.

All that is read is the guest's and may change under the reader: read a struct once, decide on the copy.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from vinci.introspect.btf import Layout
from vinci.introspect.memory import PAGE_SIZE, Bytes, GuestMemory, Implausible, Unreadable
from vinci.introspect.paging import AddressSpace, Mappings, translate
from vinci.introspect.passing import Passing
from vinci.introspect.profile import Profile
from vinci.introspect.registers import Processor
from vinci.introspect.symbols import KERNEL_BASE

T = TypeVar("T")
_MASK = 0xFFFF_FFFF_FFFF_FFFF
_WORD = struct.Struct("<Q")
_BULK = 8 * PAGE_SIZE
"""From this size on all pages are copied at once."""
_LARGE_SHIFT = 21
"""Pages of 2 MiB, as most of the kernel's own are; each is looked up once."""


class OverBudget(Implausible):
    """A look wanted more of a guest than any honest guest asks for: too many reads, bytes or seconds."""


@dataclass(slots=True)
class Budget:
    """What one check may spend: `reads`, `bytes` copied, `seconds` of its thread's time. Guest reads count."""

    reads: int = 2_000_000
    bytes: int = 256 << 20
    seconds: float = 1.5
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = time.thread_time() + self.seconds

    def spend(self, size: int) -> None:
        """Count one read of `size` bytes. Raises OverBudget."""
        self.reads -= 1
        self.bytes -= size
        if self.reads < 0 or self.bytes < 0:
            raise OverBudget("the guest's memory asks for more reading than an honest guest's")
        if not self.reads & 0xFF and time.thread_time() > self._until:
            raise OverBudget("the guest's memory takes longer to read than an honest guest's")


@dataclass(slots=True)
class Guest:
    """An attached VM.

    `slide` is what KASLR added to every link address; `physical_base` is where `_text`'s link address lies in physical
    memory. `space` is `init_top_pgt`, so kernel addresses are translated as the kernel set them up, whichever process
    runs. `processors` are those of the look: replace them at the next.
    """

    memory: GuestMemory
    profile: Profile
    processors: tuple[Processor, ...]
    slide: int
    physical_base: int
    space: AddressSpace
    budget: Budget = field(default_factory=Budget)
    verified: dict[str, bytes] = field(default_factory=dict)
    """Digests of what was once explained byte by byte; while they stay the same it need not be explained again."""
    passing: Passing = field(default_factory=Passing, init=False)
    """What was seen in states that an honest guest is in for a moment only."""
    unsettled: Counter[Hashable] = field(default_factory=Counter, init=False)
    """For each check the looks running in which all samples found tampering, but never the same."""
    _tlb: dict[int, int] = field(default_factory=dict, init=False)
    _large: dict[int, int] = field(default_factory=dict, init=False)
    _places: dict[int, int] = field(default_factory=dict, init=False)
    """Where the RAM file holds a page of virtual memory."""
    _shared: dict[str, Any] = field(default_factory=dict, init=False)

    def begin(self, processors: tuple[Processor, ...] | None = None, budget: Budget | None = None) -> None:
        """Begin another look, or with the very same `processors` as the last time another check of the same look.

        A new look forgets all translations and all that checks have shared. Every check has a new budget; with the
        very same one it takes another sample.
        """
        same_check = budget is not None and budget is self.budget
        self.budget = budget or Budget()
        if processors is not None and processors is self.processors:
            return
        if not same_check:
            self.passing.begin()
        self._tlb.clear()
        self._large.clear()
        self._places.clear()
        self._shared.clear()
        if processors is not None:
            self.processors = processors

    def shared(self, name: str, work: Callable[[], T]) -> T:
        """What `work` returned when it was first asked for in this look: what several checks need."""
        if name not in self._shared:
            self._shared[name] = work()
        found: T = self._shared[name]
        return found

    @property
    def layout(self) -> Layout:
        """The kernel's types."""
        return self.profile.layout

    def physical(self, address: int) -> int:
        """The physical address of a kernel virtual one. Raises Unreadable."""
        page = address & -PAGE_SIZE
        known = self._tlb.get(page)
        if known is None:
            known = self._tlb[page] = self._translated(page)
        return known | (address & (PAGE_SIZE - 1))

    def _translated(self, page: int) -> int:
        known = self._large.get(page >> _LARGE_SHIFT)
        if known is None:
            self.budget.spend(8 * self.space.levels)
            found = translate(self.memory, self.space, page)
            if found.page_size < 1 << _LARGE_SHIFT:
                return found.physical
            known = self._large[page >> _LARGE_SHIFT] = found.physical >> _LARGE_SHIFT << _LARGE_SHIFT
        return known | (page & ((1 << _LARGE_SHIFT) - 1))

    def learn(self, pages: Mappings, start: int = 0) -> None:
        """Take translations over from a listing of this look, of addresses from `start` on."""
        small = (pages.size == np.uint64(PAGE_SIZE)) & (pages.virtual >= np.uint64(start))
        self.learn_pages(zip(pages.virtual[small].tolist(), pages.physical[small].tolist(), strict=True))

    def learn_pages(self, pages: Iterable[tuple[int, int]]) -> None:
        """Take translations over: virtual and physical address of each page."""
        self._tlb.update(pages)

    def pieces(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Physical address and size of each part of a range that lies within one page. Raises Unreadable."""
        while size > 0:
            part = min(size, PAGE_SIZE - address % PAGE_SIZE)
            yield self.physical(address), part
            address, size = address + part & _MASK, size - part

    def read(self, address: int, size: int) -> bytes:
        """Copy `size` bytes from a kernel virtual address. Raises Unreadable, OverBudget."""
        self.budget.spend(size)
        if size < 0:
            raise Unreadable(f"{size} bytes at {address:#x}")
        if (address & (PAGE_SIZE - 1)) + size <= PAGE_SIZE:
            at = self._place(address)
            return bytes(self.memory.buffer[at : at + size])
        if size >= _BULK:
            return self._many_pages(address, size)
        return b"".join(self.memory.read(at, part) for at, part in self.pieces(address, size))

    def _place(self, address: int) -> int:
        """Where the RAM file holds an address. Raises Unreadable, OverBudget."""
        page = address & -PAGE_SIZE
        known = self._places.get(page)
        if known is None:
            known = self._places[page] = self.memory.offset(self.physical(page), PAGE_SIZE)
        return known + (address & (PAGE_SIZE - 1))

    def _many_pages(self, address: int, size: int) -> bytes:
        first = address & -PAGE_SIZE
        pages: list[int] = []
        page, end = first, address + size
        while page < end:
            physical = self.physical(page & _MASK)
            large = (page & _MASK) >> _LARGE_SHIFT in self._large
            behind = min(end, ((page >> _LARGE_SHIFT) + 1) << _LARGE_SHIFT) if large else page + PAGE_SIZE
            pages += range(physical, physical + behind - page, PAGE_SIZE)
            page = behind
        frames = self.memory.frames_of(np.array(pages, np.uint64))
        if frames.min() < 0:
            raise Unreadable(f"{size} bytes at {address:#x} are not all in RAM")
        return self.memory.tables[frames].tobytes()[address - first : address - first + size]

    def unpack(self, form: struct.Struct, address: int) -> tuple[Any, ...]:
        """The values of a form at an address, each read once. Raises Unreadable, OverBudget."""
        size = form.size
        if (address & (PAGE_SIZE - 1)) + size > PAGE_SIZE:
            return form.unpack(self.read(address, size))
        self.budget.spend(size)
        return form.unpack_from(self.memory.buffer, self._place(address))

    def u64(self, address: int) -> int:
        """The 64-bit word at an address; also for a pointer. Raises Unreadable, OverBudget."""
        word: int = self.unpack(_WORD, address)[0]
        return word

    def u32(self, address: int) -> int:
        """The 32-bit word at an address. Raises Unreadable, OverBudget."""
        return int.from_bytes(self.read(address, 4), "little")

    def cstring(self, address: int, limit: int = 256) -> str:
        """The text at an address up to its zero byte or to `limit` bytes, made printable. Raises Unreadable."""
        found = b""
        while len(found) < limit and b"\0" not in found:
            at = address + len(found)
            found += self.read(at, min(limit - len(found), PAGE_SIZE - at % PAGE_SIZE))
        return printable(found.partition(b"\0")[0])

    def symbol(self, name: str) -> int:
        """The virtual address of a kernel symbol in this guest; per-CPU ones stay offsets. Raises KeyError."""
        return self.slid(self.profile.symbols[name])

    def slid(self, link_address: int) -> int:
        """A link address as it is in this guest."""
        return link_address + self.slide & _MASK if link_address >= KERNEL_BASE else link_address

    def describe(self, address: int) -> str:
        """`function+0x1c` for an address inside the kernel's image, else the number."""
        link = address - self.slide
        symbols = self.profile.symbols
        return symbols.describe(link) if KERNEL_BASE <= link < self.profile.end else f"{address:#x}"

    def image(self, link_address: int, size: int) -> Bytes:
        """A part of the kernel's image in place, through its physical base. Raises Unreadable."""
        return self.memory.view(link_address - self.profile.start + self.physical_base, size)

    def per_cpu(self, name: str, cpu: int) -> int:
        """The address of a per-CPU variable of one processor. Raises KeyError, Unreadable."""
        return self.profile.symbols[name] + self.u64(self.symbol("__per_cpu_offset") + 8 * cpu) & _MASK


def printable(untrusted: bytes) -> str:
    """Text from a guest's memory as ASCII without control characters, others as `\\x..`."""
    text = untrusted.decode("latin-1")
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in untrusted)


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
