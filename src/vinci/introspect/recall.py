# SPDX-License-Identifier: GPL-2.0-or-later
"""What an earlier look worked out, for as long as everything that it was worked out from is still the same.

A listing of mappings depends on the page tables that were read and on nothing else; a walk along the kernel's lists on
what was read on its way. Both are kept with where that lay and its digest. To see that the digest still fits takes a
part of the time, and says the same as working it out again. Nothing of a guest's memory is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from vinci.introspect.memory import PAGE_SIZE, GuestMemory, Words
from vinci.introspect.paging import AddressSpace, Mappings, mappings

_MAX_LISTINGS = 16
"""Where a listing begins may be a guest's word, so there might be any number."""
_MAX_TABLES, _MAX_ROWS, _MAX_ALL_ROWS = 512, 1 << 15, 1 << 16
"""Of a listing that is kept, and of all of them."""
_MAX_READS, _MAX_BYTES = 1 << 14, 1 << 20
"""Of a walk that is kept."""

Places = npt.NDArray[np.int64]


def _bytes(words: Words) -> memoryview:
    return words.reshape(-1).view(np.uint8).data


@dataclass(frozen=True, slots=True)
class _Listing:
    frames: Places
    digest: bytes
    pages: Mappings


class Listings:
    """Listings of one guest's mappings, by what was asked for."""

    def __init__(self) -> None:
        """None at the beginning."""
        self._kept: dict[Hashable, _Listing] = {}

    def listing(self, memory: GuestMemory, space: AddressSpace, start: int, end: int, **options: Any) -> Mappings:
        """As `vinci.introspect.paging.mappings`; the arrays cannot be written. Raises as that does."""
        key = (space, start, end, *sorted(options.items()))
        known = self._kept.get(key)
        if known is not None and blake3(_bytes(memory.tables[known.frames])).digest() == known.digest:
            return known.pages
        frames: list[Places] = []
        digest = blake3()

        def read(of: Places, copies: Words) -> None:
            frames.append(of)
            digest.update(_bytes(copies))

        pages = mappings(memory, space, start, end, read=read, **options)
        self._kept.pop(key, None)
        if sum(map(len, frames)) <= _MAX_TABLES and len(pages) <= _MAX_ROWS and not pages.lost:
            rows = len(pages) + sum(len(each.pages) for each in self._kept.values())
            if len(self._kept) >= _MAX_LISTINGS or rows > _MAX_ALL_ROWS:
                self._kept.clear()
            for column in fields(pages):
                if isinstance(values := getattr(pages, column.name), np.ndarray):
                    values.setflags(write=False)
            self._kept[key] = _Listing(np.concatenate(frames), digest.digest(), pages)
        return pages


@dataclass(slots=True)
class Trace:
    """All that a piece of work reads of a guest: where it lies in the RAM file, and the very bytes that came of it."""

    whole: bool = True
    """False when something was read that is not here, or could not be read."""
    pages: dict[int, int] = field(default_factory=dict)
    """Where the RAM file holds each page of virtual memory that was read from."""
    _size: int = 0
    _torn: bool = False
    _words: list[tuple[int, bytes]] = field(default_factory=list)
    _bytes: list[tuple[int, bytes]] = field(default_factory=list)

    def add(self, address: int, at: int, content: bytes) -> None:
        """A read within one page: of what address, at which place of the RAM file, with what result."""
        odd = (at | len(content)) & 7
        self._size += len(content) * (8 if odd else 1)  # so much is kept of it
        place = at & -PAGE_SIZE
        self._torn = self._torn or self.pages.setdefault(address & -PAGE_SIZE, place) != place
        if self.within_bounds:
            (self._bytes if odd else self._words).append((at, content))

    @property
    def within_bounds(self) -> bool:
        """Whether it is small enough to be kept, and no page was in two places while it was made."""
        return not self._torn and len(self._bytes) + len(self._words) <= _MAX_READS and self._size <= _MAX_BYTES

    def walk(self, key: Hashable, result: Any) -> Walk:
        """What is to be kept of it."""
        words, single = _places(self._words, 8), _places(self._bytes, 1)
        digest = blake3(b"".join(content for _, content in (*self._words, *self._bytes))).digest()
        return Walk(key, result, tuple(self.pages.items()), words, single, digest)


def _places(reads: list[tuple[int, bytes]], unit: int) -> Places:
    ranges = [np.arange(at // unit, (at + len(content)) // unit) for at, content in reads]
    return np.concatenate([np.zeros(0, np.int64), *ranges])


@dataclass(frozen=True, slots=True)
class Walk:
    """A result, and everything that it was worked out from."""

    key: Hashable
    result: Any
    pages: tuple[tuple[int, int], ...]
    words: Places
    single: Places
    digest: bytes

    @property
    def size(self) -> int:
        """How many bytes were read."""
        return 8 * len(self.words) + len(self.single)

    def still_holds(self, memory: GuestMemory, place: Callable[[int], int]) -> bool:
        """Whether all that was read would read the same now.

        Args:
            place: where the RAM file holds an address of virtual memory now. Raises Unreadable.
        """
        if any(place(page) != at for page, at in self.pages):
            return False
        seen = blake3(_bytes(memory.tables.reshape(-1)[self.words]))
        return bool(seen.update(memory.bytes[self.single].data).digest() == self.digest)
