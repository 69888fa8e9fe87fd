# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel with page table isolation: the second table of each address space, which user mode runs on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from attacked import Attacked, halted, now, private
from seen_vm import Seen, boot_seen

from vinci.images.build import Images
from vinci.introspect.findings import Check, Severity
from vinci.introspect.isolation import HALF, is_isolated
from vinci.introspect.memory import PAGE_SIZE
from vinci.introspect.paging import LARGE, NO_EXECUTE, PRESENT
from vinci.introspect.profile import ensure_profile
from vinci.node.introspection.sweep import CONFIRMATIONS

LOOKS = 30
FORKS = "setsid sh -c 'while :; do /bin/true & /bin/true; wait; done' >/dev/null 2>&1 & echo $! >/run/load"


@pytest.fixture(scope="module")
def seen(images: Images) -> Iterator[Seen]:
    profile = ensure_profile(images)
    with asyncio.Runner() as runner:
        folder = Path(tempfile.mkdtemp(prefix="vinci-seen-", dir="/dev/shm"))
        rig, seen = boot_seen(runner, images, profile, folder, "APP", words="pti=on")
        try:
            yield seen
        finally:
            runner.run(rig.close())


@pytest.fixture
def app(seen: Seen) -> Iterator[Attacked]:
    with halted(seen):
        yield private(seen)


def first_process(app: Attacked) -> int:
    """The physical address of the top table of the first process."""
    guest, layout = app.guest, app.guest.layout
    tasks = layout.offset("task_struct", "tasks")
    space = guest.u64(guest.u64(guest.symbol("init_task") + tasks) - tasks + layout.offset("task_struct", "mm"))
    return guest.physical(guest.u64(space + layout.offset("mm_struct", "pgd")))


def entry(app: Attacked, table: int, number: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """An entry of a table at a physical address, to be changed in place."""
    frame = app.guest.memory.frames_of(np.array([table], np.uint64))[0]
    return app.guest.memory.tables[frame, number : number + 1]


def tampered(app: Attacked, check: Check) -> list[str]:
    found = [f for f in app.findings() if f.check is check and f.severity is Severity.TAMPERED]
    return [f"{finding.where}: {finding.what}" for finding in found]


def is_named(app: Attacked) -> bool:
    """Whether the first process is said to run on another table."""
    found = tampered(app, Check.ADDRESS_SPACES)
    return any("pid 1 (" in line and "user mode runs on another table" in line for line in found)


def test_a_clean_kernel_gives_no_alarm(seen: Seen) -> None:
    """Also while address spaces are made and taken apart."""
    own = Attacked(seen.guest, seen.ram)
    seen.sh(FORKS)
    try:
        for _ in range(LOOKS):
            for _ in range(1 + CONFIRMATIONS):
                own.guest.processors = now(seen)
                found = own.findings()
                if not found:
                    break
            assert not found
    finally:
        seen.sh("kill -KILL -- -$(cat /run/load)")
    assert is_isolated(seen.guest)


def test_another_mapping_for_user_mode_alone_is_named(app: Attacked) -> None:
    table = first_process(app)
    used = next(number for number in range(HALF) if int(entry(app, table, number)[0]) & PRESENT)
    entry(app, table + PAGE_SIZE, used)[0] ^= np.uint64(1 << 20)
    assert is_named(app)


def test_an_address_that_only_user_mode_has_is_named(app: Attacked) -> None:
    table = first_process(app)
    free = next(number for number in range(HALF) if not int(entry(app, table, number)[0]))
    entry(app, table + PAGE_SIZE, free)[0] = np.uint64(0x1067)
    assert is_named(app)


def test_a_kernel_half_of_its_own_for_user_mode_is_named(app: Attacked) -> None:
    entry(app, first_process(app) + PAGE_SIZE, 300)[0] = np.uint64(0x1063)
    assert is_named(app)


def test_code_that_all_tables_of_user_mode_share_is_named(app: Attacked) -> None:
    """Below the table beside the kernel's own, in place of a page of data: no top table differs."""
    table, levels = app.guest.space.root + PAGE_SIZE, app.guest.space.levels
    for level in range(levels, 0, -1):
        first = HALF if level == levels else 0
        present = (number for number in range(first, 512) if int(entry(app, table, number)[0]) & PRESENT)
        leaf = entry(app, table, next(present))
        if level == 1 or (level < 4 and int(leaf[0]) & LARGE):
            break
        table = int(leaf[0]) & 0x000F_FFFF_FFFF_F000
    leaf[0] = np.uint64((int(leaf[0]) & 0xFFF | app.guest.physical_base) & ~NO_EXECUTE)
    assert any("the table that user mode runs on" in line for line in tampered(app, Check.EXECUTABLE_PAGES))
