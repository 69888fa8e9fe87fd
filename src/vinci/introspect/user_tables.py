# SPDX-License-Identifier: GPL-2.0-or-later
"""The executable pages of many address spaces at once, by walking the user halves of their page tables."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from vinci.introspect.memory import GuestMemory, Words
from vinci.introspect.paging import LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE, TooManyMappings

_FRAME = np.uint64(0x000F_FFFF_FFFF_F000)
_MAX_TABLES = 1 << 16
_MAX_PAGES = 1 << 20
_BATCH = 512


@dataclass(frozen=True, slots=True)
class UserPages:
    """Executable pages of user space, one row each.

    `space` is the index of the address space among those asked for; `size` is 4 KiB, 2 MiB or 1 GiB. `lost` are the
    address spaces of which a table leads to one that is not in RAM.
    """

    space: npt.NDArray[np.int64]
    virtual: Words
    physical: Words
    size: Words
    writable: npt.NDArray[np.bool_]
    lost: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.space)


def executable_user_pages(memory: GuestMemory, roots: Words, levels: int) -> UserPages:
    """Every page that user mode can execute in each of the address spaces.

    With page table isolation the kernel marks the user half of its own top table as not executable, so the no-execute
    bit counts below the top table only.

    Args:
        roots: physical addresses of the top tables.
        levels: 4 or 5.

    Raises TooManyMappings.
    """
    space = np.arange(len(roots), dtype=np.int64)
    table, virtual = roots, np.zeros(len(roots), np.uint64)
    writable = np.ones(len(roots), np.bool_)
    found: list[UserPages] = []
    lost: list[npt.NDArray[np.int64]] = []
    total, mapped = 0, 0
    for depth in range(levels, 0, -1):
        total += len(table)
        waiting = 0
        below: list[UserPages] = []
        for at in range(0, len(table), _BATCH):
            part = slice(at, at + _BATCH)
            rows = _entries(memory, space[part], table[part], virtual[part], writable[part], depth, depth == levels)
            lost.append(space[part][memory.frames_of(table[part]) < 0])
            pages, tables = rows
            found.append(pages)
            below.append(tables)
            mapped, waiting = mapped + len(pages), waiting + len(tables)
            if mapped > _MAX_PAGES:
                raise TooManyMappings(f"more than {_MAX_PAGES} executable pages of user space")
            if total + waiting > _MAX_TABLES:
                raise TooManyMappings(f"more than {_MAX_TABLES} page tables of user space")
        rest = _join(below)
        space, table, virtual, writable = rest.space, rest.physical, rest.virtual, rest.writable
    return replace(_join(found), lost=np.unique(np.concatenate([np.zeros(0, np.int64), *lost])))


def _entries(
    memory: GuestMemory,
    space: npt.NDArray[np.int64],
    table: Words,
    virtual: Words,
    writable: npt.NDArray[np.bool_],
    depth: int,
    top: bool,
) -> tuple[UserPages, UserPages]:
    """The executable entries of tables of one level: pages, and tables of the level below."""
    frames = memory.frames_of(table)
    inside = frames >= 0
    entries = memory.tables[frames[inside]]  # a copy: the guest cannot change it any more
    wanted = np.uint64(PRESENT | USER)
    usable = entries & wanted == wanted
    if top:
        usable[:, 256:] = False  # the kernel's half
    else:
        usable &= entries & np.uint64(NO_EXECUTE) == 0
    row, column = np.nonzero(usable)
    entry = entries[row, column]
    shift = 12 + 9 * (depth - 1)
    size = np.uint64(1 << shift)
    leaf = (entry & np.uint64(LARGE) != 0) & (depth <= 3) | (depth == 1)
    frame = np.where(leaf, entry & _FRAME & ~(size - np.uint64(1)), entry & _FRAME)
    all_ = UserPages(
        space[inside][row],
        virtual[inside][row] + column.astype(np.uint64) * size,
        frame,
        np.full(len(row), size),
        writable[inside][row] & (entry & np.uint64(WRITABLE) != 0),
    )
    return _pick(all_, leaf), _pick(all_, ~leaf)


def _pick(pages: UserPages, which: npt.NDArray[np.bool_]) -> UserPages:
    return UserPages(
        pages.space[which], pages.virtual[which], pages.physical[which], pages.size[which], pages.writable[which]
    )


def _join(parts: list[UserPages]) -> UserPages:
    if not parts:
        none = np.zeros(0, np.uint64)
        return UserPages(np.zeros(0, np.int64), none, none, none, np.zeros(0, np.bool_))
    return UserPages(
        np.concatenate([part.space for part in parts]),
        np.concatenate([part.virtual for part in parts]),
        np.concatenate([part.physical for part in parts]),
        np.concatenate([part.size for part in parts]),
        np.concatenate([part.writable for part in parts]),
    )
