# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel half of every address space is the kernel's own: whatever is found in `init_top_pgt` holds everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vinci.introspect.attach import kernel_space
from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.guest import Guest, struct_reader
from vinci.introspect.memory import PAGE_SIZE, Implausible, Unreadable, Words
from vinci.introspect.sampling import Sample, check_by_samples

MAX_TASKS = 65_536
_NAME_SIZE = 16
_HALF = 256
"""Entries of a top-level table from which on addresses are the kernel's."""
_ACCESSED_DIRTY = np.uint64(~(1 << 5 | 1 << 6) & 0xFFFF_FFFF_FFFF_FFFF)


def check_address_spaces(guest: Guest) -> CheckResult:
    """The top-level table of every process and of every processor."""
    return check_by_samples(Check.ADDRESS_SPACES, guest, lambda: _sample(guest))


def _sample(guest: Guest) -> Sample:
    sample = Sample()
    expected = _kernel_half(guest, guest.space.root)
    seen: set[int] = set()
    for root, where in (*_processes(guest), *_processors(guest)):
        if root in seen:
            continue
        seen.add(root)
        try:
            different = np.flatnonzero(_kernel_half(guest, root) != expected)
        except Unreadable:
            sample.add((root, "lost"), Check.ADDRESS_SPACES, "its page tables lie outside memory", where)
            continue
        for entry in different[:1].tolist():
            start = guest.space.canonical((_HALF + entry) << (12 + 9 * (guest.space.levels - 1)))
            what = f"its kernel half is not the kernel's: another mapping from {start:#x} on"
            sample.add((root, entry), Check.ADDRESS_SPACES, what, where)
    sample.examined = len(seen)
    return sample


def _kernel_half(guest: Guest, root: int) -> Words:
    guest.budget.spend(PAGE_SIZE // 2)
    table: Words = guest.memory.view(root + _HALF * 8, _HALF * 8).view(np.uint64)
    return table & _ACCESSED_DIRTY


def _processors(guest: Guest) -> Iterator[tuple[int, str]]:
    text = guest.symbol("_text")
    for processor in guest.processors:
        if processor.long_mode:
            yield kernel_space(guest.memory, processor, text).root, f"processor {processor.number}"


def _processes(guest: Guest) -> Iterator[tuple[int, str]]:
    """Physical address of the top-level table of each process, and the process."""
    layout = guest.layout
    tasks, directory = layout.offset("task_struct", "tasks"), layout.offset("mm_struct", "pgd")
    reader = struct_reader(layout, "task_struct", "tasks.next", "mm", "active_mm")
    number, command = layout.offset("task_struct", "pid"), layout.offset("task_struct", "comm")
    first = task = guest.symbol("init_task")
    owners: dict[int, int] = {}
    borrowers: dict[int, int] = {}  # kernel threads run in the address space of whoever ran before them
    for _ in range(MAX_TASKS):
        following, own, active = reader.words(guest, task)
        owners.setdefault(own, task)
        borrowers.setdefault(active, task)
        task = following - tasks
        if task == first:
            break
    else:
        raise Implausible("the list of processes does not end")
    for space, task in (borrowers | owners).items():
        if space:
            name = guest.cstring(task + command, _NAME_SIZE)
            root = guest.physical(guest.u64(space + directory))
            yield root, f"pid {guest.u32(task + number)} ({name})"
