# SPDX-License-Identifier: GPL-2.0-or-later
"""All objects of the kernel's slab caches, found by the page frames that they lie in instead of by any list.

Source: linux/mm/slab.h, struct slab over struct page. A frame's record says which cache it belongs to; objects that
have been freed are among those found. A guest that forges these records can hide from them (it cannot from the page
tables).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vinci.introspect.guest import Guest
from vinci.introspect.linear import LinearMap
from vinci.introspect.lists import Broken
from vinci.introspect.memory import PAGE_SIZE, Words
from vinci.introspect.structs import struct_reader

_MAX_OBJECTS = 1 << 20
_MASK = 0xFFFF_FFFF_FFFF_FFFF


class Slabs:
    """Which page frames belong to which cache: one pass over the records of all frames."""

    @classmethod
    def of(cls, linear: LinearMap) -> Slabs:
        """Make that pass, once in a look. Raises Unreadable, Broken."""
        return linear.guest.shared("slabs", lambda: cls(linear))

    def __init__(self, linear: LinearMap) -> None:
        layout = linear.guest.layout
        self.linear = linear
        flag = np.uint64(1 << layout.enumerator("pageflags", "PG_slab"))
        flags, cache, counters, freelist = (
            layout.offset("slab", name) // 8 for name in ("__page_flags", "slab_cache", "counters", "freelist")
        )
        parts = [(first, rows, np.flatnonzero(rows[:, flags] & flag)) for first, rows in linear.records]
        self._first = np.concatenate([first + slabs for first, _, slabs in parts])
        self._cache = np.concatenate([rows[slabs, cache] for _, rows, slabs in parts])
        self._freelist = np.concatenate([rows[slabs, freelist] for _, rows, slabs in parts])
        counts = np.concatenate([rows[slabs, counters] for _, rows, slabs in parts])
        self._objects = ((counts >> np.uint64(16)) & np.uint64(0x7FFF)).astype(np.int64)

    def objects(self, cache: str) -> Words:
        """The addresses in the direct map of all objects of a cache, free ones too.

        Args:
            cache: the symbol of the pointer to the cache, as `task_struct_cachep`.

        Raises KeyError, Unreadable, Broken.
        """
        guest = self.linear.guest
        address = guest.u64(guest.symbol(cache))
        stride = _stride(guest, address)
        mine = self._cache == np.uint64(address)
        counts = self._objects[mine]
        total = int(counts.sum())
        if not 8 <= stride <= 1 << 22 or stride % 8 or total > _MAX_OBJECTS:
            raise Broken(f"the slab cache {cache} is said to hold {total} objects of {stride} bytes")
        starts = self._first[mine].astype(np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(self.linear.base)
        number = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        found: Words = np.repeat(starts, counts) + number.astype(np.uint64) * np.uint64(stride)
        return found

    def is_free(self, cache: str, address: int) -> bool:
        """Whether the allocator would give an object of a cache out again: it is on its slab's list of free objects, or
        on a processor's (mm/slub.c). What is in such an object counts for nothing, and will be overwritten.

        Raises KeyError, Unreadable.
        """
        guest = self.linear.guest
        at = guest.u64(guest.symbol(cache))
        stride, link, secret, per_cpu = struct_reader(
            guest.layout, "kmem_cache", "size", "offset", "random", "cpu_slab"
        ).words(guest, at)
        slabs = np.flatnonzero(self._cache == np.uint64(at))
        columns = (self._first[slabs], self._objects[slabs], self._freelist[slabs])
        for first, count, freelist in zip(*map(np.ndarray.tolist, columns), strict=True):
            start = self.linear.base + first * PAGE_SIZE
            span = range(start, start + count * stride, stride or 1)
            if address in span:
                heads = (freelist, *self._of_processors(per_cpu))
                return any(address in self._followed(head, span, link, secret) for head in heads)
        return False

    def _of_processors(self, per_cpu: int) -> Iterator[int]:
        """The first object on each processor's list."""
        guest = self.linear.guest
        freelist = guest.layout.offset("kmem_cache_cpu", "freelist")
        for cpu in range(len(guest.processors)):
            away = guest.u64(guest.symbol("__per_cpu_offset") + 8 * cpu)
            yield guest.u64(per_cpu + away + freelist & _MASK)

    def _followed(self, head: int, span: range, link: int, secret: int) -> set[int]:
        """The objects on a list that lie in a slab. A link is kept with a secret and its own place (`freelist_ptr`)."""
        found: set[int] = set()
        while head in span and head not in found:
            found.add(head)
            place = head + link
            swapped = int.from_bytes(place.to_bytes(8, "little"), "big")
            head = self.linear.guest.u64(place) ^ secret ^ swapped
        return found


def _stride(guest: Guest, cache: int) -> int:
    """The bytes from one object to the next."""
    return struct_reader(guest.layout, "kmem_cache", "size").words(guest, cache)[0]
