# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole looks at a VM whose memory was made to lead them astray: it counts as tampered with, within bounds."""

from __future__ import annotations

import asyncio
import itertools
import struct
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from attacked import Attacked, halted, private
from seen_vm import Seen, boot_seen

from vinci.images.build import Images
from vinci.images.manifest import read_manifest
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.findings import Check, CheckResult, Finding, Severity, Verdict, verdict_of
from vinci.introspect.guest import Guest
from vinci.introspect.hooks import HookTables
from vinci.introspect.hooks.proc_entries import is_given_up
from vinci.introspect.linear import LinearMap
from vinci.introspect.lists import list_entries
from vinci.introspect.look import Subject, look
from vinci.introspect.profile import ensure_profile
from vinci.introspect.sampling import UNSETTLED_LOOKS
from vinci.introspect.slabs import Slabs

HOLE = 0xFFFF_0000_0000_0000 - (1 << 40)
"""An address that no page table maps."""
RIGHTS = 7
"""Present, writable, for user mode: an entry of a page table."""
MOST_MEMORY = 256 << 20


@dataclass
class Victim:
    """A clean VM that stands still, and what is trusted of it."""

    seen: Seen
    files: CertifiedFiles
    hooks: HookTables

    def attacked(self) -> tuple[Attacked, Subject]:
        """A copy of its memory to be changed, and what looks at the copy."""
        attacked = private(self.seen)
        return attacked, Subject(attacked.guest, self.files, self.hooks)

    def look(self, subject: Subject) -> tuple[CheckResult, ...]:
        """A whole look."""
        return look(subject, self.seen.registers())


@pytest.fixture(scope="module")
def victim(images: Images) -> Iterator[Victim]:
    profile = ensure_profile(images)
    with asyncio.Runner() as runner:
        folder = Path(tempfile.mkdtemp(prefix="vinci-seen-", dir="/dev/shm"))
        rig, seen = boot_seen(runner, images, profile, folder, "APP")
        with halted(seen):
            yield Victim(seen, CertifiedFiles.of(read_manifest(images.app_manifest)), HookTables(profile))
        runner.run(rig.close())


def tampered(results: tuple[CheckResult, ...], check: Check) -> list[Finding]:
    """What counts as tampering by that check."""
    return [f for row in results if row.check is check for f in row.findings if f.severity is Severity.TAMPERED]


def lines(results: tuple[CheckResult, ...]) -> str:
    said = [f"{row.check}: {f.what} | {f.where}" for row in results for f in row.findings]
    return "\n".join(said + [f"{row.check} failed: {row.error}" for row in results if row.error])


def test_a_clean_copy_is_clean(victim: Victim) -> None:
    results = victim.look(victim.attacked()[1])
    assert not lines(results)


def test_a_table_of_functions_in_writable_data_has_to_name_certified_ones(victim: Victim) -> None:
    """It lies in the data of the image, and the file leads there: only what it names is foreign."""
    attacked, subject = victim.attacked()
    guest = attacked.guest
    linear = LinearMap.of(guest)
    files, at = Slabs.of(linear).objects("filp_cachep"), guest.layout.offset("file", "f_op")
    tables = linear.words(files, at)
    file = int(files[np.flatnonzero(tables == np.uint64(guest.symbol("socket_file_ops")))[0]])
    copy, size = guest.symbol("init_stack"), guest.layout.size("file_operations")
    attacked.poke(copy, guest.read(guest.symbol("socket_file_ops"), size))
    attacked.word(file + at, copy)
    results = victim.look(subject)
    assert not lines(results)  # the very same functions are certified ones
    attacked.word(copy + guest.layout.offset("file_operations", "read_iter"), copy + size)
    (found, *_) = tampered(victim.look(subject), Check.HOOKS)
    assert "operations of a file (f_op): read_iter is" in found.what


@pytest.mark.parametrize("used_by", ["tree", "inode", ""])
def test_a_proc_entry_that_says_it_is_given_up_is_believed_where_nothing_leads_to_it(
    victim: Victim, used_by: str
) -> None:
    """A freed one names the table of a module that was unloaded, where another may lie now."""
    attacked, subject = victim.attacked()
    guest, layout = attacked.guest, attacked.guest.layout
    entry = guest.u64(guest.symbol("proc_root") + layout.offset("proc_dir_entry", "subdir"))
    entry -= layout.offset("proc_dir_entry", "subdir_node")
    linear = LinearMap.of(guest)
    if used_by != "tree":
        objects = Slabs.of(linear).objects("proc_dir_entry_cache").tolist()
        entry = next(each for each in objects if is_given_up(guest, each))
    if used_by == "inode":
        inode = Slabs.of(linear).objects("proc_inode_cachep").tolist()[0]
        attacked.word(inode + layout.offset("proc_inode", "pde"), entry)
    attacked.word(entry, 0)  # in_use and refcnt
    attacked.word(entry + layout.offset("proc_dir_entry", "proc_ops"), entry)
    found = [line for line in lines(victim.look(subject)).splitlines() if "operations of a proc_dir_entry" in line]
    assert bool(found) is bool(used_by)


@pytest.mark.parametrize("users", [True, False])
def test_code_from_a_share_is_shown_where_users_are_and_named_elsewhere(victim: Victim, users: bool) -> None:
    """What kind a file system is, is the guest's word: here the image's own is said to be a share."""
    attacked, subject = victim.attacked()
    guest, layout = attacked.guest, attacked.guest.layout
    subject.programs = None if users else frozenset(victim.files.programs)
    kind, text = guest.symbol("init_stack"), guest.symbol("init_stack") + 1024
    attacked.poke(text, b"nfs4\0")
    attacked.word(kind + layout.offset("file_system_type", "name"), text)
    for entry in list_entries(guest, guest.symbol("super_blocks"), 1024):
        at = entry - layout.offset("super_block", "s_list") + layout.offset("super_block", "s_type")
        if guest.cstring(guest.u64(guest.u64(at) + layout.offset("file_system_type", "name"))) == "erofs":
            attacked.word(at, kind)
    results = victim.look(subject)
    found = {f.severity for row in results for f in row.findings if "code from a share" in f.what}
    assert found == {Severity.NOTE if users else Severity.TAMPERED}, lines(results)


def first_process(guest: Guest, member: str) -> int:
    """What `init` has there, as its `mm` or `files`."""
    tasks = guest.layout.offset("task_struct", "tasks")
    return guest.u64(guest.u64(guest.symbol("init_task") + tasks) - tasks + guest.layout.offset("task_struct", member))


def empty_pages(guest: Guest) -> Iterator[int]:
    """Pages of RAM with nothing in them."""
    region = guest.memory.regions[0]
    yield from ((np.flatnonzero(~guest.memory.tables.any(axis=1)) << 12) - region.offset + region.physical).tolist()


def executes_all_memory(attacked: Attacked) -> None:
    """Tables of a process map every page of RAM as code: each of them is a page to be judged."""
    guest = attacked.guest
    memory, region = guest.memory, guest.memory.regions[0]
    tables = empty_pages(guest)
    root = guest.physical(guest.u64(first_process(guest, "mm") + guest.layout.offset("mm_struct", "pgd")))
    upper = [next(tables) for _ in range(guest.space.levels - 2)]
    for table, below in zip([root, *upper], upper, strict=False):
        memory.view(table, 8).view(np.uint64)[0] = below | RIGHTS
    for number in range(region.size >> 21):
        table = next(tables)
        memory.view(upper[-1] + 8 * number, 8).view(np.uint64)[0] = table | RIGHTS
        pages = (np.arange(512) + 512 * number << 12) + region.physical
        memory.view(table, 4096).view(np.uint64)[:] = pages.astype(np.uint64) | np.uint64(RIGHTS)


def cycle_of_modules(attacked: Attacked) -> None:
    """The list of modules ends in a circle that its head is no part of."""
    guest = attacked.guest
    second = guest.u64(guest.u64(guest.symbol("modules")))
    attacked.word(guest.u64(guest.u64(second)), second)


def index_in_itself(attacked: Attacked) -> None:
    """A node of the table of pids is its own child."""
    guest = attacked.guest
    at = guest.symbol("init_pid_ns") + guest.layout.offset("pid_namespace", "idr.idr_rt.xa_head")
    node = guest.u64(at)
    attacked.word((node & ~3) + guest.layout.offset("xa_node", "slots") + 8, node)


def files_without_end(attacked: Attacked) -> None:
    """A process says that it has four thousand million open files."""
    guest, layout = attacked.guest, attacked.guest.layout
    table = guest.u64(first_process(guest, "files") + layout.offset("files_struct", "fdt"))
    attacked.poke(table + layout.offset("fdtable", "max_fds"), b"\xff" * 4)


def into_the_hole(attacked: Attacked) -> None:
    """The list of processes leads to where no memory is."""
    attacked.word(attacked.guest.symbol("init_task") + attacked.guest.layout.offset("task_struct", "tasks"), HOLE)


def space_in_the_hole(attacked: Attacked) -> None:
    """A process's memory is said to be described there: its pages could not be walked."""
    guest = attacked.guest
    tasks = guest.layout.offset("task_struct", "tasks")
    first = guest.u64(guest.symbol("init_task") + tasks) - tasks
    attacked.word(first + guest.layout.offset("task_struct", "mm"), HOLE)


def top_table_in_the_hole(attacked: Attacked) -> None:
    """A process's top table is said to lie there."""
    attacked.word(first_process(attacked.guest, "mm") + attacked.guest.layout.offset("mm_struct", "pgd"), HOLE)


def tables_outside_memory(attacked: Attacked) -> None:
    """A process's top table leads to one that is not in RAM, where a device could hold it."""
    guest = attacked.guest
    root = guest.physical(guest.u64(first_process(guest, "mm") + guest.layout.offset("mm_struct", "pgd")))
    guest.memory.view(root + 8 * 200, 8).view(np.uint64)[0] = 1 << 40 | RIGHTS


def records_in_the_hole(attacked: Attacked) -> None:
    """All page frames' records are said to lie there."""
    attacked.word(attacked.guest.symbol("vmemmap_base"), HOLE)


def everything_on_one_page(attacked: Attacked) -> None:
    """A process's tables lead to themselves, whatever the address."""
    guest = attacked.guest
    root = guest.physical(guest.u64(first_process(guest, "mm") + guest.layout.offset("mm_struct", "pgd")))
    table = next(empty_pages(guest))
    guest.memory.view(root, 8).view(np.uint64)[0] = table | RIGHTS
    guest.memory.view(table, 4096).view(np.uint64)[:] = table | RIGHTS


def kernel_on_one_page(attacked: Attacked) -> None:
    """The kernel's tables, too."""
    guest = attacked.guest
    table = next(empty_pages(guest))
    guest.memory.view(guest.space.root + 8 * 300, 8).view(np.uint64)[0] = table | RIGHTS
    guest.memory.view(table, 4096).view(np.uint64)[:] = table | RIGHTS


def frees_without_end(attacked: Attacked) -> None:
    """The cache of processes' records is said to hold objects of eight bytes."""
    guest = attacked.guest
    cache = guest.u64(guest.symbol("task_struct_cachep"))
    attacked.poke(cache + guest.layout.offset("kmem_cache", "size"), struct.pack("<I", 8))


TAMPERINGS = (
    executes_all_memory,
    cycle_of_modules,
    index_in_itself,
    files_without_end,
    into_the_hole,
    space_in_the_hole,
    top_table_in_the_hole,
    tables_outside_memory,
    records_in_the_hole,
    everything_on_one_page,
    kernel_on_one_page,
    frees_without_end,
)


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_a_hostile_guest_counts_as_tampered_with_within_bounds(
    victim: Victim, tamper: Callable[[Attacked], None]
) -> None:
    attacked, subject = victim.attacked()
    assert verdict_of(victim.look(subject)) is Verdict.TRUSTED
    tamper(attacked)
    results = victim.look(subject)  # in the processor time that the checker gives to a VM it knows
    assert verdict_of(results) is Verdict.COMPROMISED
    assert not any("processor time" in (row.error or "") for row in results), lines(results)
    tracemalloc.start()
    try:
        look(subject, victim.seen.registers(), seconds=60.0)  # counting takes time
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_a_guest_that_writes_all_the_time_counts_as_tampered_with(victim: Victim) -> None:
    """The list of processes is whole and torn by turns, faster than it can be followed."""
    attacked, subject = victim.attacked()
    at = attacked.guest.symbol("init_task") + attacked.guest.layout.offset("task_struct", "tasks")
    word = attacked.guest.memory.view(attacked.guest.physical(at), 8).view(np.uint64)
    good, ended = word[0], threading.Event()

    def write() -> None:
        odd = itertools.cycle((HOLE, int(good) ^ 64, 8, 1))
        while not ended.is_set():
            word[0] = next(odd)
            time.sleep(0.0001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        verdicts = {verdict_of(victim.look(subject)) for _ in range(UNSETTLED_LOOKS)}
    finally:
        ended.set()
        writer.join()
    assert Verdict.COMPROMISED in verdicts
    word[0] = good
    assert verdict_of(victim.look(subject)) is Verdict.TRUSTED
