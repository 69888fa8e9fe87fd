# SPDX-License-Identifier: GPL-2.0-or-later
"""Every executable page of the kernel belongs to its text, to a certified module, or to one of few named exceptions.

The best single check: code that nobody lists, names or links still has to be executable somewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vinci.introspect.departing import departing
from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.guest import Guest
from vinci.introspect.isolation import executable_beside, is_isolated
from vinci.introspect.jit import explain_packs
from vinci.introspect.kernel_text import text_end
from vinci.introspect.livepatch import Livepatch
from vinci.introspect.loaded import MODULES_END, MODULES_START, listed, plausible
from vinci.introspect.memory import PAGE_SIZE, Words
from vinci.introspect.paging import Mappings
from vinci.introspect.real_mode import real_mode
from vinci.introspect.sampling import Sample, check_by_samples

_KERNEL_HALF = {4: 0xFFFF_8000_0000_0000, 5: 0xFF00_0000_0000_0000}
"""By the levels of the page tables."""


def check_executable_pages(guest: Guest, sandboxed: frozenset[str] | None = None) -> CheckResult:
    """All executable mappings of the kernel half of `init_top_pgt`, which is that of every address space.

    Args:
        sandboxed: paths of the programs that may have compiled BPF filters of their system calls; None for every
            program, and filters of sockets too.
    """
    return check_by_samples(Check.EXECUTABLE_PAGES, guest, lambda: _sample(guest, sandboxed))


def _sample(guest: Guest, sandboxed: frozenset[str] | None) -> Sample:
    pages = guest.mappings(_KERNEL_HALF[guest.space.levels], 1 << 64, executable_only=True, max_tables=4096)
    guest.learn(pages, guest.symbol("_etext"))
    sample = Sample(examined=int((pages.size // np.uint64(PAGE_SIZE)).sum()))
    if pages.lost:
        what = f"{pages.lost} entries of page tables lead outside memory"
        sample.add("lost", Check.EXECUTABLE_PAGES, what, "kernel page tables")
    for rights, what in ((pages.writable, "writable and executable"), (pages.user, "executable for user mode too")):
        for start, size in _runs(pages, rights):
            what_exactly = f"{size // PAGE_SIZE} pages: {what}"
            sample.add((start, what), Check.EXECUTABLE_PAGES, what_exactly, guest.describe(start))
    owned = _kernel_text(guest, pages, sample) | _module_text(guest, pages)
    runs = dict(_runs(pages, ~owned))
    for start in (*explain_packs(guest, runs, sample, sandboxed), *real_mode(guest, runs), *_ftrace(guest, runs)):
        runs.pop(start, None)
    for start in departing(guest, runs):
        runs.pop(start)
    for start, size in runs.items():
        what = f"{size // PAGE_SIZE} executable pages that belong to no certified code"
        sample.add((start, "unowned"), Check.EXECUTABLE_PAGES, what, f"{start:#x}")
    if is_isolated(guest):
        _beside(guest, sample)
    return sample


def _beside(guest: Guest, sample: Sample) -> None:
    """In the kernel half that user mode runs on with page table isolation there is the kernel's text, if anything."""
    pages = executable_beside(guest, _KERNEL_HALF[guest.space.levels])
    foreign = ~_kernel_text(guest, pages, sample) | pages.writable | pages.user
    for start, size in _runs(pages, foreign):
        what = f"{size // PAGE_SIZE} executable pages in the table that user mode runs on, which are not the kernel's"
        sample.add((start, "beside"), Check.EXECUTABLE_PAGES, what, guest.describe(start))


def _ftrace(guest: Guest, runs: dict[int, int]) -> list[int]:
    """The single pages that ftrace made for our livepatch."""
    livepatch = Livepatch(guest)
    own = {trampoline.page for trampoline in livepatch.trampolines}
    single = [start for start, size in runs.items() if size == PAGE_SIZE]
    others = [start for start in single if start not in own]
    return [*own.intersection(single), *livepatch.unused(others)]


def _kernel_text(guest: Guest, pages: Mappings, sample: Sample) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The pages of the kernel's text, all where the text lies, which is looked at elsewhere."""
    start, end = guest.symbol("_text"), guest.slid(text_end(guest.profile))
    inside = _within(pages, start, end)
    moved = inside & (pages.physical - np.uint64(guest.physical_base) != pages.virtual - np.uint64(start))
    for first, size in _runs(pages, moved):
        what = f"{size // PAGE_SIZE} pages of the kernel's text are mapped elsewhere"
        sample.add((first, "moved"), Check.EXECUTABLE_PAGES, what, guest.describe(first))
    return inside


def _module_text(guest: Guest, pages: Mappings) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The text of certified modules, as large as their files say; what it holds is looked at elsewhere."""
    spans: list[tuple[int, int]] = []
    for module in plausible(guest, set(listed(guest))):
        file = guest.profile.module(module.name)
        if file is None:
            continue
        spans.append((module.base, module.base + file.core.text))
        if module.initialising and MODULES_START <= module.init < MODULES_END:
            spans.append((module.init, module.init + file.init.text))
    if not spans:
        return np.zeros(len(pages), np.bool_)
    starts, ends = np.array(sorted(spans), np.uint64).T
    at = (
        np.searchsorted(starts, pages.virtual, "right") - 1
    )  # of spans that overlap, which honest ones do not, the last
    whole = (ends + np.uint64(PAGE_SIZE - 1)) & np.uint64(-PAGE_SIZE & 0xFFFF_FFFF_FFFF_FFFF)
    owned: np.ndarray[tuple[int], np.dtype[np.bool_]] = (at >= 0) & (_last_bytes(pages) < whole[at])
    return owned


def _within(pages: Mappings, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The pages that lie wholly in a range of whole pages; a large one that reaches beyond it does not."""
    return (pages.virtual >= np.uint64(start)) & (_last_bytes(pages) < np.uint64(-(-end // PAGE_SIZE) * PAGE_SIZE))


def _last_bytes(pages: Mappings) -> Words:
    """The address of each page's last byte. Behind the topmost page there is none: its end would be 0."""
    return pages.virtual + (pages.size - np.uint64(1))


def _runs(pages: Mappings, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Iterator[tuple[int, int]]:
    """Start and size of each group of chosen pages that follow each other."""
    virtual, sizes = pages.virtual[chosen].tolist(), pages.size[chosen].tolist()
    start = end = None
    for address, size in zip(virtual, sizes, strict=True):
        if address != end:
            if start is not None and end is not None:
                yield start, end - start
            start = address
        end = address + size
    if start is not None and end is not None:
        yield start, end - start
