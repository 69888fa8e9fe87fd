# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that was verified once, and whether it is still the same: a digest of exactly the bytes that were read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from vinci.introspect.guest import Guest
from vinci.introspect.memory import PAGE_SIZE, GuestMemory, Implausible, Region, Unreadable, Words

_WORDS = PAGE_SIZE // 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Words of guest memory by their place, the pages that they are in, and their digest."""

    pages: tuple[tuple[int, int], ...]
    """Virtual and physical address of each page."""
    words: npt.NDArray[np.int64]
    """Index of each 64-bit word in the RAM file."""
    digest: bytes

    @classmethod
    def of(cls, guest: Guest, regions: Mapping[int, int]) -> tuple[Snapshot, Guest]:
        """The bytes of these regions (size by virtual address), as they are now; and a guest that holds nothing but the
        very copy of their pages that the digest is of: what is verified there the real one cannot change any more.

        Raises Unreadable.
        """
        first = np.array([address >> 3 for address in regions], np.uint64)
        last = np.array([address + max(size, 1) - 1 >> 3 for address, size in regions.items()], np.uint64)
        counts = (last - first).astype(np.int64) + 1
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        virtual = np.unique(np.repeat(first, counts) + within.astype(np.uint64)) << np.uint64(3)
        page, which = np.unique(virtual & np.uint64(-PAGE_SIZE & 0xFFFF_FFFF_FFFF_FFFF), return_inverse=True)
        pages = tuple((address, guest.physical(address)) for address in page.tolist())
        physical, copied = np.unique(np.array([at for _, at in pages], np.uint64), return_inverse=True)
        frames = guest.memory.frames_of(physical)
        if len(frames) and frames.min() < 0:
            raise Unreadable("a page of it is not in RAM")
        copies = guest.memory.tables[frames]
        inside = ((virtual & np.uint64(PAGE_SIZE - 1)) >> np.uint64(3)).astype(np.int64)
        row = copied[which]
        snapshot = cls(pages, frames[row] * _WORDS + inside, _digest(copies.reshape(-1)[row * _WORDS + inside]))
        regions_of_copy = tuple(
            Region(at, PAGE_SIZE, number * PAGE_SIZE) for number, at in enumerate(physical.tolist())
        )
        frozen = replace(guest, memory=GuestMemory(copies.tobytes(), regions_of_copy))
        frozen.learn_pages(pages)
        return snapshot, frozen

    def holds(self, guest: Guest) -> bool:
        """Whether every page is still where it was and every word what it was."""
        try:
            moved = any(guest.physical(virtual) != physical for virtual, physical in self.pages)
        except Implausible:
            return False
        return not moved and _digest(guest.memory.tables.reshape(-1)[self.words]) == self.digest


def _digest(words: Words) -> bytes:
    return blake3(words.tobytes()).digest()
