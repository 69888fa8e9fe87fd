# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's kernel as seen from outside: virtual addresses, symbols and structs over its physical memory.

All that is read is the guest's and may change under the reader: read a struct once, decide on the copy.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from vinci.introspect.btf import Layout
from vinci.introspect.memory import PAGE_SIZE, Bytes, GuestMemory, Implausible, Unreadable
from vinci.introspect.paging import AddressSpace, Mappings, translate
from vinci.introspect.passing import Passing
from vinci.introspect.profile import Profile
from vinci.introspect.recall import Listings, Trace, Walk
from vinci.introspect.registers import Processor
from vinci.introspect.symbols import KERNEL_BASE

T = TypeVar("T")
_MASK = 0xFFFF_FFFF_FFFF_FFFF
_WORD = struct.Struct("<Q")
_BULK = 8 * PAGE_SIZE
"""From this size on all pages are copied at once."""
_PAGE_SHIFT, _LARGE_SHIFT = 12, 21
_LARGE = 1 << _LARGE_SHIFT
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
    _large_places: dict[int, int] = field(default_factory=dict, init=False)
    """The same of large pages, by their numbers."""
    _shared: dict[str, Any] = field(default_factory=dict, init=False)
    _straight: tuple[int, bytes] = field(default=(0, b""), init=False)
    _listings: Listings = field(default_factory=Listings, init=False)
    _walks: dict[str, Walk] = field(default_factory=dict, init=False)
    _kept: dict[str, tuple[object, Any]] = field(default_factory=dict, init=False)
    _trace: Trace | None = field(default=None, init=False)
    """Of the work whose reads are noted now."""

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
        self.forget()
        if processors is not None:
            self.processors = processors

    def forget(self) -> None:
        """Let go of what holds for one look, or one sample, only: also between looks, for a guest decides how much."""
        self._trace = None
        self._tlb.clear()
        self._large.clear()
        self._places.clear()
        self._large_places.clear()
        self._straight = 0, b""
        self._shared.clear()

    def shared(self, name: str, work: Callable[[], T]) -> T:
        """What `work` returned when it was first asked for in this look: what several checks need."""
        self._untraced()
        if name not in self._shared:
            self._shared[name] = work()
        found: T = self._shared[name]
        return found

    def recalled(self, name: str, key: Hashable, work: Callable[[], T]) -> T:
        """What `work` returned in an earlier look, if everything that it read of the guest then reads the same now.

        Args:
            name: of the work.
            key: whatever else the result depends on.
            work: reads by `read`, `unpack` and what is made of them, and by nothing else: not by addresses of
                physical memory, nor by arrays.

        Raises what `work` does.
        """
        self._untraced()
        known = self._walks.pop(name, None)
        if known is not None and known.key == key and self._holds(known):
            self._walks[name] = known
            found: T = known.result
            return found
        self._trace = trace = Trace()
        try:
            found = work()
        finally:
            self._trace = None
        if trace.whole:
            self._walks[name] = trace.walk(key, found)
        return found

    def kept(self, name: str, made_from: object, work: Callable[[], T]) -> T:
        """What `work` made of the very same object in an earlier look: it reads nothing else."""
        known = self._kept.get(name)
        if known is None or known[0] is not made_from:
            known = self._kept[name] = made_from, work()
        made: T = known[1]
        return made

    def _holds(self, walk: Walk) -> bool:
        self.budget.spend(walk.size)
        try:
            return walk.still_holds(self.memory, self._place)
        except Unreadable:
            return False

    def _untraced(self) -> None:
        if self._trace is not None:
            self._trace.whole = False

    def mappings(self, start: int, end: int, **options: Any) -> Mappings:
        """The kernel's own mappings in a range, as `vinci.introspect.paging.mappings` lists them. Raises as that."""
        self._untraced()
        return self._listings.listing(self.memory, self.space, start, end, **options)

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
        start, mapped = self._straight
        number = page - start >> _PAGE_SHIFT
        if 0 <= number < len(mapped) and mapped[number]:
            return page - start
        known = self._large.get(page >> _LARGE_SHIFT)
        if known is None:
            self.budget.spend(8 * self.space.levels)
            found = translate(self.memory, self.space, page)
            if found.page_size < _LARGE:
                return found.physical
            known = self._large[page >> _LARGE_SHIFT] = found.physical & -_LARGE
        return known | (page & (_LARGE - 1))

    def learn(self, pages: Mappings, start: int = 0) -> None:
        """Take the translations of small pages over from a listing of this look, of addresses from `start` on."""
        small = (pages.size == np.uint64(PAGE_SIZE)) & (pages.virtual >= np.uint64(start))
        self.learn_pages(zip(pages.virtual[small].tolist(), pages.physical[small].tolist(), strict=True))

    def learn_pages(self, pages: Iterable[tuple[int, int]]) -> None:
        """Take translations over: virtual and physical address of each small page."""
        self._tlb.update(pages)

    def learn_straight(self, start: int, mapped: bytes) -> None:
        """The same of the direct map: for each page from `start` on whether it is mapped to its own place."""
        self._straight = start, mapped

    def read(self, address: int, size: int) -> bytes:
        """Copy `size` bytes from a kernel virtual address. Raises Unreadable, OverBudget."""
        trace = self._trace
        if trace is None:
            return self._copy(address, size)
        # A read that fails is not noted, and the work may go on without it.
        whole, trace.whole = trace.whole, False
        content = self._copy(address, size)
        trace.whole = whole and size < _BULK and trace.within_bounds
        return content

    def _copy(self, address: int, size: int) -> bytes:
        self.budget.spend(size)
        if size < 0:
            raise Unreadable(f"{size} bytes at {address:#x}")
        if (address & (PAGE_SIZE - 1)) + size <= PAGE_SIZE:
            return self._piece(address, size)
        if size >= _BULK:
            return self._many_pages(address, size)
        return b"".join(self._piece(at, part) for at, part in _pieces(address, size))

    def _piece(self, address: int, size: int) -> bytes:
        """A read within one page."""
        at = self._place(address)
        content = bytes(self.memory.buffer[at : at + size])
        if self._trace is not None:
            self._trace.add(address, at, content)
        return content

    def _place(self, address: int) -> int:
        """Where the RAM file holds an address. Raises Unreadable, OverBudget."""
        large = self._large_places.get(address >> _LARGE_SHIFT)
        if large is not None:
            return large + (address & (_LARGE - 1))
        page = address & -PAGE_SIZE
        known = self._places.get(page)
        if known is None:
            physical = self.physical(page)
            known = self._places[page] = self.memory.offset(physical, PAGE_SIZE)
            if page >> _LARGE_SHIFT in self._large:
                with suppress(Unreadable):  # RAM may end within it
                    place = self.memory.offset(physical & -_LARGE, _LARGE)
                    self._large_places[page >> _LARGE_SHIFT] = place
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
        copied = self.memory.tables[frames].reshape(-1).data.cast("B")
        return copied[address - first : address - first + size].tobytes()

    def in_place(self, address: int, size: int) -> Bytes | None:
        """The bytes at an address that lie in one large page, without a copy; None for others. Raises Unreadable."""
        self._untraced()
        physical = self.physical(address)
        if address >> _LARGE_SHIFT not in self._large or address % _LARGE + size > _LARGE:
            return None
        return self.memory.view(physical, size)

    def unpack(self, form: struct.Struct, address: int) -> tuple[Any, ...]:
        """The values of a form at an address, each read once. Raises Unreadable, OverBudget."""
        size = form.size
        if self._trace is not None or (address & (PAGE_SIZE - 1)) + size > PAGE_SIZE:
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
        self._untraced()
        return self.memory.view(link_address - self.profile.start + self.physical_base, size)

    def per_cpu(self, name: str, cpu: int) -> int:
        """The address of a per-CPU variable of one processor. Raises KeyError, Unreadable."""
        return self.profile.symbols[name] + self.u64(self.symbol("__per_cpu_offset") + 8 * cpu) & _MASK


def _pieces(address: int, size: int) -> Iterator[tuple[int, int]]:
    """Address and size of each part of a range that lies within one page."""
    while size > 0:
        part = min(size, PAGE_SIZE - address % PAGE_SIZE)
        yield address, part
        address, size = address + part & _MASK, size - part


def printable(untrusted: bytes) -> str:
    """Text from a guest's memory as ASCII without control characters, others as `\\x..`."""
    text = untrusted.decode("latin-1")
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in untrusted)
