# SPDX-License-Identifier: GPL-2.0-or-later
"""Many kernel objects read at once: the kernel's direct map of all RAM, and its records of page frames.

An object of the kernel's allocators has its address in the direct map, so its physical address is a subtraction. That
the map is straight is checked against the page tables; where it is not, the guest's kernel sees other bytes than its
A-VM, which is a finding by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vinci.introspect.guest import Guest
from vinci.introspect.lists import Broken
from vinci.introspect.memory import PAGE_SIZE, Words
from vinci.introspect.paging import Mappings

_LARGEST_BATCH = 64 << 20
"""Bytes copied by one `gather`."""


@dataclass(frozen=True)
class LinearMap:
    """The direct map (`page_offset_base`) and the records of page frames (`vmemmap_base`) of one guest.

    `bent` holds the virtual addresses of pages of the direct map that do not lead to their own physical address.
    """

    guest: Guest
    base: int
    bent: Words

    @classmethod
    def of(cls, guest: Guest) -> LinearMap:
        """Read and check the map, once in a look. Raises Unreadable, Broken, TooManyMappings."""
        return guest.shared("linear map", lambda: cls._read(guest))

    @classmethod
    def _read(cls, guest: Guest) -> LinearMap:
        base = guest.u64(guest.symbol("page_offset_base"))
        if base & (PAGE_SIZE - 1) or base != guest.space.canonical(base) or not base >> 63:
            raise Broken(f"the direct map is said to begin at {base:#x}")
        end = max(region.physical + region.size for region in guest.memory.regions)
        pages = guest.mappings(base, base + end)
        bent = pages.virtual - np.uint64(base) != pages.physical
        if pages.virtual.flags.writeable:  # a listing that was not kept is another one the next time
            guest.learn_straight(base, _straight(base, pages, bent))
        else:
            guest.learn_straight(base, guest.kept("straight pages", pages, lambda: _straight(base, pages, bent)))
        return cls(guest, base, pages.virtual[bent])

    def frames(self, addresses: Words) -> npt.NDArray[np.int64]:
        """Index of the RAM page in which each address of the direct map lies; -1 for an address that is none of it."""
        return self.guest.memory.frames_of(addresses - np.uint64(self.base))

    def gather(self, addresses: Words, size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Copies of `size` bytes at each address, one row each, and which addresses lie in RAM; other rows are zero.

        Objects may cross pages, as the direct map is straight. Raises Broken for more bytes than one gather may copy.
        """
        if len(addresses) * size > _LARGEST_BATCH:
            raise Broken(f"{len(addresses)} objects of {size} bytes")
        self.guest.budget.spend(len(addresses) * size)
        first = self.frames(addresses)
        last = self.frames(addresses + np.uint64(size - 1))
        inside = (first >= 0) & (last >= first) & ((last - first) * PAGE_SIZE <= size + PAGE_SIZE)
        start = first * PAGE_SIZE + (addresses & np.uint64(PAGE_SIZE - 1)).astype(np.int64)
        rows = np.zeros((len(addresses), size), np.uint8)
        rows[inside] = self.guest.memory.bytes[start[inside, None] + np.arange(size)]
        return rows, inside

    def words(self, addresses: Words, offset: int) -> Words:
        """The 64-bit words at `offset` from each address; 0 where that is not RAM or not aligned."""
        wanted = addresses + np.uint64(offset)
        frames = self.frames(wanted)
        good = (frames >= 0) & (wanted & np.uint64(7) == 0)
        self.guest.budget.spend(8 * len(addresses))
        found = np.zeros(len(addresses), np.uint64)
        within = ((wanted & np.uint64(PAGE_SIZE - 1)) >> np.uint64(3)).astype(np.int64)
        found[good] = self.guest.memory.tables[frames[good], within[good]]
        return found

    def columns(self, addresses: Words, offsets: Sequence[int]) -> list[Words]:
        """As `words`, for several offsets of the same objects."""
        if not len(addresses) or not offsets:
            return [np.zeros(len(addresses), np.uint64) for _ in offsets]
        first, last = self.frames(addresses), self.frames(addresses + np.uint64(max(offsets)))
        into = (addresses & np.uint64(PAGE_SIZE - 1)).astype(np.int64)
        start = first * PAGE_SIZE + into
        good = (first >= 0) & (last == (start + max(offsets)) // PAGE_SIZE) & (into % 8 == 0)
        self.guest.budget.spend(8 * len(addresses) * len(offsets))
        row, ram = start[good] // 8, self.guest.memory.tables.reshape(-1)
        found = []
        for offset in offsets:
            column = np.zeros(len(addresses), np.uint64)
            if offset % 8 == 0:
                column[good] = ram[row + offset // 8]
            found.append(column)
        return found

    @cached_property
    def page_size(self) -> int:
        """Bytes of a `struct page`."""
        return self.guest.layout.size("page")

    @cached_property
    def records(self) -> tuple[tuple[int, Words], ...]:
        """The records (`struct page`) of all page frames of RAM, in place, in pieces: the number of the first frame of
        each piece, and one row of words for each frame. Raises Unreadable, Broken."""
        base = self.guest.u64(self.guest.symbol("vmemmap_base"))
        pieces: list[tuple[int, Words]] = []
        for region in self.guest.memory.regions:
            pieces += self._pieces(base, region.physical // PAGE_SIZE, region.size // PAGE_SIZE)
        return tuple(pieces)

    def _pieces(self, base: int, frame: int, count: int) -> list[tuple[int, Words]]:
        guest, size = self.guest, self.page_size
        start, end = base + frame * size, base + (frame + count) * size
        pages = guest.mappings(start & -PAGE_SIZE, -(-end // PAGE_SIZE) * PAGE_SIZE)
        runs: list[list[int]] = []  # virtual start, physical start, end
        for row in zip(pages.virtual.tolist(), pages.physical.tolist(), pages.size.tolist(), strict=True):
            virtual, physical, length = row
            if runs and runs[-1][2] == virtual and physical - runs[-1][1] == virtual - runs[-1][0]:
                runs[-1][2] += length
            else:
                runs.append([virtual, physical, virtual + length])
        found, at = [], start
        for virtual, physical, until in runs:
            until = min(until, end)
            if not virtual <= at < until or (until - at) % size:
                raise Broken("the kernel has no records of some page frames")
            view = guest.memory.view(physical + at - virtual, until - at)
            found.append(((at - base) // size, view.view(np.uint64).reshape(-1, size // 8)))
            at = until
        if at != end:
            raise Broken("the kernel has no records of some page frames")
        return found


def _straight(base: int, pages: Mappings, bent: npt.NDArray[np.bool_]) -> bytes:
    """For each page of the direct map whether it is mapped to its own physical address."""
    first = ((pages.virtual - np.uint64(base)) // np.uint64(PAGE_SIZE)).astype(np.int64)[~bent]
    count = (pages.size // np.uint64(PAGE_SIZE)).astype(np.int64)[~bent]
    edges = np.zeros(int((first + count).max(initial=0)) + 1, np.int8)
    edges[first] += 1
    edges[first + count] -= 1
    return np.cumsum(edges, dtype=np.int8)[:-1].tobytes()
