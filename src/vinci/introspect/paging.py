# SPDX-License-Identifier: GPL-2.0-or-later
"""x86-64 page tables (Intel SDM vol. 3A, chapter 4): one address looked up, or all mappings of a range listed.

The tables are the guest's and may be hostile: a table may point to itself, outside RAM, or map all addresses onto one
page. So a listing is bounded in tables and in mappings, and works on copies of the entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vinci.introspect.memory import GuestMemory, Implausible, Unreadable, Words

PRESENT = 1 << 0
WRITABLE = 1 << 1
USER = 1 << 2
LARGE = 1 << 7
NO_EXECUTE = 1 << 63
_FRAME = 0x000F_FFFF_FFFF_F000
_BATCH = 512
"""Tables copied at once: 2 MiB."""


class TooManyMappings(Implausible):
    """More page tables or mappings than any honest guest has."""


@dataclass(frozen=True, slots=True)
class Translation:
    """Where a virtual address leads: `physical` for it, and the whole page's rights along its way."""

    physical: int
    page_size: int
    writable: bool
    user: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """A page table root: the physical address in CR3 without its flags, and 4 or 5 levels."""

    root: int
    levels: int

    @classmethod
    def of(cls, cr3: int, levels: int) -> AddressSpace:
        """The address space of a CR3 value, whose low bits hold flags or a PCID."""
        return cls(cr3 & _FRAME, levels)

    def canonical(self, address: int) -> int:
        """The address with its unused top bits set as the processor wants them."""
        bits = 12 + 9 * self.levels
        address &= (1 << bits) - 1
        return address | (0xFFFF_FFFF_FFFF_FFFF << bits & 0xFFFF_FFFF_FFFF_FFFF if address >> (bits - 1) else 0)


def translate(memory: GuestMemory, space: AddressSpace, address: int) -> Translation:
    """Look one virtual address up. Raises Unreadable when it is not mapped, not canonical, or a table is not in RAM."""
    if address != space.canonical(address):
        raise Unreadable(f"{address:#x} is no canonical address")
    entry, writable, user, executable = space.root, True, True, True
    for level in range(space.levels, 0, -1):
        shift = 12 + 9 * (level - 1)
        entry = memory.u64((entry & _FRAME) + (address >> shift & 0x1FF) * 8)
        if not entry & PRESENT:
            raise Unreadable(f"{address:#x} is not mapped")
        writable = writable and bool(entry & WRITABLE)
        user = user and bool(entry & USER)
        executable = executable and not entry & NO_EXECUTE
        if level == 1 or (level <= 3 and entry & LARGE):
            size = 1 << shift
            return Translation((entry & _FRAME & -size) | (address & (size - 1)), size, writable, user, executable)
    raise AssertionError("unreachable: level 1 is a leaf")


@dataclass(frozen=True, slots=True)
class Mappings:
    """Pages of a range, ascending by virtual address; one row each.

    `size` is 4 KiB, 2 MiB or 1 GiB. `lost` counts table entries that point outside RAM.
    """

    virtual: Words
    physical: Words
    size: Words
    writable: npt.NDArray[np.bool_]
    user: npt.NDArray[np.bool_]
    executable: npt.NDArray[np.bool_]
    lost: int

    def __len__(self) -> int:
        return len(self.virtual)


@dataclass(frozen=True, slots=True)
class _Level:
    """Tables of one level still to be read: where they are, which addresses they begin at, rights on the way there."""

    table: Words
    virtual: Words
    rights: Words

    def __len__(self) -> int:
        return len(self.table)

    def part(self, start: int) -> _Level:
        end = start + _BATCH
        return _Level(self.table[start:end], self.virtual[start:end], self.rights[start:end])


def _joined(parts: list[_Level]) -> _Level:
    if not parts:
        empty = np.zeros(0, np.uint64)
        return _Level(empty, empty, empty)
    return _Level(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("table", "virtual", "rights")))


def mappings(
    memory: GuestMemory,
    space: AddressSpace,
    start: int,
    end: int,
    *,
    executable_only: bool = False,
    user_only: bool = False,
    max_tables: int = 16_384,
    max_mappings: int = 1 << 20,
    read: Callable[[npt.NDArray[np.int64], Words], None] = lambda _frames, _tables: None,
) -> Mappings:
    """Every page mapped in `[start, end)`, both canonical and in the same half, `end` possibly 2**64.

    Args:
        executable_only: leave out what carries NX anywhere on its way: the tables below it are not even read.
        user_only: leave out what user mode may not reach.
        read: is told which tables were read, by their indices in `memory.tables`, and the copies that count. They alone
            decide what is listed.

    Raises TooManyMappings beyond the bounds; Unreadable when the root is not in RAM.
    """
    top = np.uint64((1 << 64) - (1 << (12 + 9 * space.levels)) if start >> 63 else 0)
    last = np.uint64(end - 1)
    unwanted = np.uint64(NO_EXECUTE if executable_only else 0)
    needed = np.uint64(PRESENT | (USER if user_only else 0))
    memory.view(space.root, 4096)
    level = _Level(
        np.array([space.root], np.uint64), np.array([top], np.uint64), np.array([WRITABLE | USER], np.uint64)
    )
    leaves: list[tuple[_Level, int]] = []
    tables = found = lost = 0
    for depth in range(space.levels, 0, -1):
        shift = 12 + 9 * (depth - 1)
        size = 1 << shift
        below: list[_Level] = []
        tables += len(level)
        if tables > max_tables:
            raise TooManyMappings(f"more than {max_tables} page tables")
        for at in range(0, len(level), _BATCH):
            part = level.part(at)
            frames = memory.frames_of(part.table)
            lost += int(np.count_nonzero(frames < 0))
            part = _Level(part.table[frames >= 0], part.virtual[frames >= 0], part.rights[frames >= 0])
            frames = frames[frames >= 0]
            entries = memory.tables[frames]  # fancy indexing copies: the guest cannot change it any more
            read(frames, entries)
            row, column = np.nonzero(((entries & needed) == needed) & ((entries & unwanted) == 0))
            entry = entries[row, column]
            virtual = part.virtual[row] + (column.astype(np.uint64) << np.uint64(shift))
            inside = (virtual + np.uint64(size - 1) >= np.uint64(start)) & (virtual <= last)
            entry, virtual, upper = entry[inside], virtual[inside], part.rights[row[inside]]
            rights = (entry & upper & np.uint64(WRITABLE | USER)) | ((entry | upper) & np.uint64(NO_EXECUTE))
            leaf = np.full(len(entry), depth == 1) | ((entry & np.uint64(LARGE)) != 0) & (depth <= 3)
            frame = entry & np.uint64(_FRAME)
            leaves.append((_Level(frame[leaf] & np.uint64(-size & _FRAME), virtual[leaf], rights[leaf]), size))
            found += len(leaves[-1][0])
            if found > max_mappings:
                raise TooManyMappings(f"more than {max_mappings} pages mapped")
            below.append(_Level(frame[~leaf], virtual[~leaf], rights[~leaf]))
            if sum(map(len, below)) > max_tables:
                raise TooManyMappings(f"more than {max_tables} page tables")
        level = _joined(below)
    return _listing(leaves, lost)


def _listing(leaves: list[tuple[_Level, int]], lost: int) -> Mappings:
    rows = _joined([leaf for leaf, _ in leaves])
    sizes = np.repeat(np.array([size for _, size in leaves], np.uint64), [len(leaf) for leaf, _ in leaves])
    order = np.argsort(rows.virtual, kind="stable")
    rights = rows.rights[order]
    return Mappings(
        virtual=rows.virtual[order],
        physical=rows.table[order],
        size=sizes[order],
        writable=(rights & np.uint64(WRITABLE)) != 0,
        user=(rights & np.uint64(USER)) != 0,
        executable=(rights & np.uint64(NO_EXECUTE)) == 0,
        lost=lost,
    )
