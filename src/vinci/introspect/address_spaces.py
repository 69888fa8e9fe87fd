# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel half of every address space is the kernel's own: whatever is found in `init_top_pgt` holds everywhere.

With page table isolation each has a second table, for user mode, which has to be the first one's fellow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vinci.introspect.attach import kernel_space
from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.guest import Guest
from vinci.introspect.isolation import ACCESSED_DIRTY, HALF, different_entries, is_isolated
from vinci.introspect.linear import LinearMap
from vinci.introspect.memory import PAGE_SIZE, Unreadable, Words
from vinci.introspect.sampling import Sample, check_by_samples
from vinci.introspect.slabs import Slabs
from vinci.introspect.tasks import TaskReader, in_slabs

_SAME = np.uint64(~ACCESSED_DIRTY & 0xFFFF_FFFF_FFFF_FFFF)


def check_address_spaces(guest: Guest) -> CheckResult:
    """The top-level table of every process and of every processor."""
    return check_by_samples(Check.ADDRESS_SPACES, guest, lambda: _sample(guest))


def _sample(guest: Guest) -> Sample:
    sample = Sample()
    expected = _kernel_half(guest, guest.space.root)
    _processes(guest, expected, sample)
    for root, where in _processors(guest):
        sample.examined += 1
        try:
            different = np.flatnonzero(_kernel_half(guest, root) != expected)
        except Unreadable:
            sample.add((root, "lost"), Check.ADDRESS_SPACES, "its page tables lie outside memory", where)
            continue
        for entry in different[:1].tolist():
            _other_half(guest, root, entry, where, sample)
        if is_isolated(guest):
            _beside(guest, guest.memory.frames_of(np.array([root], np.uint64)), [where], sample)
    return sample


def _other_half(guest: Guest, root: int, entry: int, where: str, sample: Sample) -> None:
    start = guest.space.canonical((HALF + entry) << (12 + 9 * (guest.space.levels - 1)))
    what = f"its kernel half is not the kernel's: another mapping from {start:#x} on"
    sample.add((root, entry), Check.ADDRESS_SPACES, what, where)


def _kernel_half(guest: Guest, root: int) -> Words:
    guest.budget.spend(PAGE_SIZE // 2)
    table: Words = guest.memory.view(root + HALF * 8, HALF * 8).view(np.uint64)
    return table & _SAME


def _processors(guest: Guest) -> Iterator[tuple[int, str]]:
    text = guest.symbol("_text")
    for processor in guest.processors:
        if processor.long_mode:
            yield kernel_space(guest.memory, processor, text).root, f"processor {processor.number}"


def address_spaces(linear: LinearMap) -> tuple[Words, Words, Words]:
    """Each address space that a process has or borrows: its record, its top table, and such a process.

    Processes are taken from where their records are made, hidden ones too; the address of the top table is the one in
    the direct map, 0 where the record is not in it.
    """
    layout = linear.guest.layout
    tasks = in_slabs(linear, Slabs.of(linear))
    own, borrowed = linear.columns(tasks, [layout.offset("task_struct", name) for name in ("mm", "active_mm")])
    # kernel threads run in the address space of whoever ran before them
    spaces, which = np.unique(np.concatenate([own, borrowed]), return_index=True)
    used = spaces != 0
    spaces, which = spaces[used], which[used]
    return spaces, linear.words(spaces, layout.offset("mm_struct", "pgd")), np.concatenate([tasks, tasks])[which]


def _processes(guest: Guest, expected: Words, sample: Sample) -> None:
    """The top-level table of each process."""
    linear = LinearMap.of(guest)
    spaces, tops, tasks = guest.shared("address spaces", lambda: address_spaces(linear))
    sample.examined += len(spaces)
    reader = TaskReader(guest)
    frames = linear.frames(tops)
    for row in np.flatnonzero(frames < 0).tolist():
        what = "its page tables are not where the kernel makes them"
        key = (int(spaces[row]), "astray")
        sample.add(key, Check.ADDRESS_SPACES, what, reader.read(int(tasks[row])).where)
        if sample.full:
            return
    tops, tasks, frames = tops[frames >= 0], tasks[frames >= 0], frames[frames >= 0]
    guest.budget.spend(PAGE_SIZE // 2 * len(frames))
    different = (guest.memory.tables[frames, HALF:] & _SAME) != expected
    for row in np.flatnonzero(different.any(axis=1)).tolist():
        where = reader.read(int(tasks[row])).where
        _other_half(guest, int(tops[row]) - linear.base, int(np.argmax(different[row])), where, sample)
        if sample.full:
            return
    if is_isolated(guest):
        _beside(guest, frames, [reader.read(task).where for task in tasks.tolist()], sample)


def _beside(guest: Guest, frames: npt.NDArray[np.int64], places: Sequence[str], sample: Sample) -> None:
    """The tables that user mode runs on with page table isolation, beside those in these frames."""
    different = different_entries(guest, frames)
    for row in np.flatnonzero(different.any(axis=1)).tolist():
        entry = int(np.argmax(different[row]))
        start = guest.space.canonical(entry << (12 + 9 * (guest.space.levels - 1)))
        what = f"user mode runs on another table than the kernel's: another mapping from {start:#x} on"
        sample.add((int(frames[row]), "beside", entry), Check.ADDRESS_SPACES, what, places[row])
        if sample.full:
            return
