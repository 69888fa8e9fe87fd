# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's RAM, read from outside through the file that QEMU shares; nothing is copied but what is asked for."""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAGE_SIZE = 4096
RAM_BLOCK = "pc.ram"
"""QEMU's name for the machine's RAM (`-machine memory-backend=pc.ram`; libvirt names it so too)."""

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]


class Implausible(Exception):  # noqa: N818 - it names a state of the guest, which a check reports
    """What no honest guest's memory holds. A check that meets it ends with an error, which counts as a finding."""


class Unreadable(Implausible):
    """Guest memory that is not there: a hole, an address that no page table maps, or a pointer that is none."""


def distinct(values: Words) -> Words:
    """The different ones of the values, ascending: as np.unique, whose hashing takes six times as long for these."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


@dataclass(frozen=True, slots=True)
class Region:
    """`size` bytes of guest-physical memory from `physical` lie in the RAM file from `offset`; all whole pages."""

    physical: int
    size: int
    offset: int


_LINE = re.compile(r"\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:ram|rom)\): (\S+)(?: @([0-9a-f]{16}))?\s*")


def parse_regions(mtree: str, block: str = RAM_BLOCK) -> tuple[Region, ...]:
    """Where RAM lies, from the text of QEMU's `info mtree -f`: the flat view of the address space `memory`.

    Raises ValueError when that view names no such RAM.
    """
    for view in mtree.split("FlatView #"):
        if '\n AS "memory", root: system' in view:
            return _join(
                Region(int(first, 16), int(last, 16) + 1 - int(first, 16), int(offset or "0", 16))
                for first, last, name, offset in (m.groups() for m in map(_LINE.fullmatch, view.splitlines()) if m)
                if name == block
            )
    raise ValueError("`info mtree -f` shows no address space `memory`")


def _join(parts: object) -> tuple[Region, ...]:
    joined: list[Region] = []
    for part in sorted(parts, key=lambda region: region.physical):  # type: ignore[call-overload]
        last = joined[-1] if joined else None
        if last and last.physical + last.size == part.physical and last.offset + last.size == part.offset:
            joined[-1] = Region(last.physical, last.size + part.size, last.offset)
        else:
            joined.append(part)
    if not joined:
        raise ValueError("`info mtree -f` shows no RAM of that name")
    return tuple(joined)


class GuestMemory:
    """Guest-physical memory.

    Args:
        ram: the RAM file's content; a mapping of it, which is read in place.
        regions: where its parts lie in the guest's physical address space, ascending and disjoint.

    Raises ValueError when the regions reach outside `ram` or are not whole pages.
    """

    def __init__(self, ram: mmap.mmap | bytes | bytearray | memoryview, regions: tuple[Region, ...]) -> None:
        self.bytes: Bytes = np.frombuffer(ram, np.uint8)
        for region in regions:
            if region.offset + region.size > len(self.bytes):
                raise ValueError("the RAM file is smaller than the RAM")
            if (region.physical | region.size | region.offset) % PAGE_SIZE:
                raise ValueError("RAM that is not whole pages")
        self.regions = regions
        self.buffer = memoryview(ram)
        """The RAM file's content, in place."""
        self._starts = np.array([region.physical for region in regions], np.uint64)
        self._ends = np.array([region.physical + region.size for region in regions], np.uint64)
        self._shifts = np.array([region.physical - region.offset for region in regions], np.int64)
        pages = len(self.bytes) // PAGE_SIZE
        self.tables: Words = self.bytes[: pages * PAGE_SIZE].view(np.uint64).reshape(pages, PAGE_SIZE // 8)
        """Every page of the RAM file as 512 words, a page table's entries; the index is `frame_of`'s."""

    @classmethod
    def open(cls, path: Path, regions: tuple[Region, ...]) -> GuestMemory:
        """Map a RAM file read-only. Raises OSError, ValueError."""
        with path.open("rb") as file:
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), regions)

    @property
    def size(self) -> int:
        """Bytes of RAM."""
        return sum(region.size for region in self.regions)

    def offset(self, physical: int, size: int) -> int:
        """Where `size` bytes from a physical address lie in `buffer`. Raises Unreadable when they are not all RAM."""
        for region in self.regions:
            into = physical - region.physical
            if 0 <= into < region.size and 0 <= size <= region.size - into:
                return region.offset + into
        raise Unreadable(f"no RAM at {physical:#x}")

    def read(self, physical: int, size: int) -> bytes:
        """Copy `size` bytes from a physical address. Raises Unreadable when they are not all RAM."""
        at = self.offset(physical, size)
        return bytes(self.buffer[at : at + size])

    def u64(self, physical: int) -> int:
        """The little-endian word at a physical address. Raises Unreadable."""
        at = self.offset(physical, 8)
        return int(struct.unpack_from("<Q", self.buffer, at)[0])

    def view(self, physical: int, size: int) -> Bytes:
        """The bytes in place: what the guest writes shows through. Raises Unreadable."""
        at = self.offset(physical, size)
        return self.bytes[at : at + size]

    def frames_of(self, physical: Words) -> npt.NDArray[np.int64]:
        """Index into `tables` of the page at each physical address; -1 where there is no RAM."""
        region = np.searchsorted(self._starts, physical, "right") - 1
        inside = (region >= 0) & (physical < self._ends[region])
        return np.where(inside, (physical.astype(np.int64) - self._shifts[region]) >> 12, -1)
