# SPDX-License-Identifier: GPL-2.0-or-later
"""Page table isolation: the table that user mode runs on, in the page after each that the kernel runs on.

Source: linux/arch/x86/mm/pti.c, and `clone_pgd_range` and `native_set_pgd` of asm/pgtable*.h. The user half of both is
the same, but for the no-execute bit, which the kernel sets in its own; the kernel half of the second is that beside
`init_top_pgt`, in which there is little more than the kernel's entries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vinci.introspect.guest import Guest
from vinci.introspect.memory import PAGE_SIZE, Words
from vinci.introspect.paging import AddressSpace, Mappings, mappings

HALF = 256
"""Entries of a top-level table from which on addresses are the kernel's."""
ACCESSED_DIRTY = 1 << 5 | 1 << 6
_SAME_KERNEL = np.uint64(~ACCESSED_DIRTY & 0xFFFF_FFFF_FFFF_FFFF)
_SAME_USER = np.uint64(~(ACCESSED_DIRTY | 1 << 63) & 0xFFFF_FFFF_FFFF_FFFF)
_VERIFIED = "page table isolation"
_JUMP = 0xEB


def is_isolated(guest: Guest) -> bool:
    """Whether the kernel isolates page tables. Its text shows that; what it once showed holds."""
    if guest.image(guest.profile.isolation, 1)[0] != _JUMP:
        guest.verified[_VERIFIED] = b"\x01"
    return _VERIFIED in guest.verified


def different_entries(guest: Guest, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which entries of the tables beside these are not what they have to be: one row of 512 for each.

    Args:
        frames: indices of RAM pages, of tables that the kernel runs on.
    """
    guest.budget.spend(2 * PAGE_SIZE * len(frames))
    tables = guest.memory.tables
    beside: Words = tables[np.minimum(frames + 1, len(tables) - 1)]
    different = np.empty(beside.shape, np.bool_)
    different[:, :HALF] = (beside[:, :HALF] ^ tables[frames, :HALF]) & _SAME_USER != 0
    own = guest.memory.view(guest.space.root + PAGE_SIZE + HALF * 8, HALF * 8).view(np.uint64)
    different[:, HALF:] = (beside[:, HALF:] ^ own) & _SAME_KERNEL != 0
    return different


def executable_beside(guest: Guest, start: int) -> Mappings:
    """The executable mappings of the kernel half, from `start` on, in the table beside `init_top_pgt`.

    Raises TooManyMappings.
    """
    space = AddressSpace(guest.space.root + PAGE_SIZE, guest.space.levels)
    return mappings(guest.memory, space, start, 1 << 64, executable_only=True, max_tables=4096)
