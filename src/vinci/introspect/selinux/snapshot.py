# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that was verified once, and whether it is still the same: a digest of exactly the bytes that were read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from vinci.introspect.guest import Guest
from vinci.introspect.memory import PAGE_SIZE, Implausible


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Words of guest memory by their place, the pages that they are in, and their digest."""

    pages: tuple[tuple[int, int], ...]
    """Virtual and physical address of each page."""
    words: npt.NDArray[np.int64]
    """Index of each 64-bit word in the RAM file."""
    digest: bytes

    @classmethod
    def of(cls, guest: Guest, regions: Mapping[int, int]) -> Snapshot:
        """The bytes of these regions (size by virtual address), as they are now. Raises Unreadable."""
        first = np.array([address >> 3 for address in regions], np.uint64)
        last = np.array([address + max(size, 1) - 1 >> 3 for address, size in regions.items()], np.uint64)
        counts = (last - first).astype(np.int64) + 1
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        virtual = np.unique(np.repeat(first, counts) + within.astype(np.uint64)) << np.uint64(3)
        page, which = np.unique(virtual & np.uint64(-PAGE_SIZE & 0xFFFF_FFFF_FFFF_FFFF), return_inverse=True)
        pages = tuple((address, guest.physical(address)) for address in page.tolist())
        frames = guest.memory.frames_of(np.array([physical for _, physical in pages], np.uint64))
        inside = ((virtual & np.uint64(PAGE_SIZE - 1)) >> np.uint64(3)).astype(np.int64)
        words = frames[which] * (PAGE_SIZE // 8) + inside
        return cls(pages, words, _digest(guest, words))

    def holds(self, guest: Guest) -> bool:
        """Whether every page is still where it was and every word what it was."""
        try:
            moved = any(guest.physical(virtual) != physical for virtual, physical in self.pages)
        except Implausible:
            return False
        return not moved and _digest(guest, self.words) == self.digest


def _digest(guest: Guest, words: npt.NDArray[np.int64]) -> bytes:
    return blake3(guest.memory.tables.reshape(-1)[words].tobytes()).digest()
