# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of operations that kernel objects point to: of the image's or a certified module's data, never of the heap.

A rootkit that filters what `/proc` or a directory shows copies such a table, changes one function of it, and lets the
object point to the copy. All objects of a kind are read at once, from the memory that they are made in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vinci.introspect.code import Code
from vinci.introspect.findings import Check
from vinci.introspect.guest import Guest
from vinci.introspect.hooks.proc_entries import is_given_up
from vinci.introspect.hooks.tables import foreign_functions
from vinci.introspect.hooks.trusted import HookTables
from vinci.introspect.linear import LinearMap
from vinci.introspect.lists import list_entries
from vinci.introspect.loaded import MODULES_END, MODULES_START
from vinci.introspect.memory import Unreadable, Words, distinct
from vinci.introspect.sampling import Sample
from vinci.introspect.slabs import Slabs

_MAX_SUPER_BLOCKS = 1024


@dataclass(frozen=True, slots=True)
class _Kind:
    """Objects of one slab cache, with the pointers to tables that they hold.

    `container` is the struct that the cache's objects are, and its member that is `struct`. `or_function` is set where
    the pointer shares its place with one to a function.
    """

    cache: str
    struct: str
    pointers: tuple[str, ...]
    container: tuple[str, str] | None = None
    or_function: bool = False


_INODE = ("i_op", "i_fop")
"""`i_fop` becomes `free_inode`, a function, when an inode is given up."""
_KINDS = (
    _Kind("inode_cachep", "inode", _INODE, or_function=True),
    _Kind("proc_inode_cachep", "inode", _INODE, ("proc_inode", "vfs_inode"), or_function=True),
    _Kind("shmem_inode_cachep", "inode", _INODE, ("shmem_inode_info", "vfs_inode"), or_function=True),
    _Kind("sock_inode_cachep", "inode", _INODE, ("socket_alloc", "vfs_inode"), or_function=True),
    _Kind("filp_cachep", "file", ("f_op",)),
    _Kind("proc_dir_entry_cache", "proc_dir_entry", ("proc_iops", "proc_ops", "proc_dops")),
    _Kind("proc_dir_entry_cache", "proc_dir_entry", ("seq_ops",), or_function=True),
    _Kind("vm_area_cachep", "vm_area_struct", ("vm_ops",)),
)
_TABLES = {
    "i_op": "inode_operations",
    "i_fop": "file_operations",
    "f_op": "file_operations",
    "proc_iops": "inode_operations",
    "proc_ops": "proc_ops",
    "proc_dops": "dentry_operations",
    "seq_ops": "seq_operations",
    "vm_ops": "vm_operations_struct",
    "s_op": "super_operations",
}
"""The struct that each of these pointers leads to."""


def look(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """Check the tables of all objects of these kinds. Raises Unreadable, Broken."""
    del trusted
    linear = LinearMap.of(guest)
    slabs = Slabs.of(linear)
    for kind in _KINDS:
        objects = slabs.objects(kind.cache)
        inner = guest.layout.offset(*kind.container) if kind.container else 0
        sample.examined += len(objects)
        offsets = [inner + guest.layout.offset(kind.struct, pointer) for pointer in kind.pointers]
        for pointer, tables in zip(kind.pointers, linear.columns(objects, offsets), strict=True):
            _objects(guest, code, kind, pointer, objects, tables, sample)


def _objects(
    guest: Guest, code: Code, kind: _Kind, pointer: str, objects: Words, tables: Words, sample: Sample
) -> None:
    """Check the tables that one pointer of all these objects leads to."""
    used = distinct(tables)
    used = used[used != 0]
    inside = code.are_data(used)
    for table, member in foreign_functions(guest, code, _TABLES[pointer], used[inside]).items():
        what = f"operations of a {kind.struct} ({pointer}): {member}"
        sample.add(("table", kind.struct, pointer), Check.HOOKS, what, f"table at {code.describe(table)}")
    outside = used[~inside]
    if kind.or_function:
        outside = outside[~code.are_functions(outside)]
    outside = np.array([table for table in outside.tolist() if _can_be_used(guest, table)], np.uint64)
    for row in np.flatnonzero(np.isin(tables, outside)).tolist() if len(outside) else ():
        address, table = int(objects[row]), int(tables[row])
        if kind.struct == "proc_dir_entry" and is_given_up(guest, address):
            continue
        what = f"operations of a {kind.struct} ({pointer}) lie at {code.describe(table)}, in no certified data"
        sample.add(("object", address, pointer), Check.HOOKS, what, f"{kind.struct} at {address:#x}")
        if sample.full:
            break


def _can_be_used(guest: Guest, table: int) -> bool:
    """Whether a table may be one: not where modules are loaded, but no memory is.

    A free object still names the table of a module that was unloaded; whoever used it would stop the kernel.
    """
    if not MODULES_START <= table < MODULES_END:
        return True
    try:
        guest.read(table, 8)
    except Unreadable:
        return False
    return True


def super_blocks(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """The mounted file systems' own operations, and those of their roots. Raises Unreadable, Broken."""
    del trusted
    layout = guest.layout
    link, operations = layout.offset("super_block", "s_list"), layout.offset("super_block", "s_op")
    root, inode = layout.offset("super_block", "s_root"), layout.offset("dentry", "d_inode")
    found: list[tuple[str, int, int]] = []
    for entry in list_entries(guest, guest.symbol("super_blocks"), _MAX_SUPER_BLOCKS):
        sample.examined += 1
        block = entry - link
        found.append(("s_op", guest.u64(block + operations), block))
        if top := guest.u64(block + root):
            node = guest.u64(top + inode)
            found += [(name, guest.u64(node + layout.offset("inode", name)), block) for name in _INODE]
    for pointer in ("s_op", *_INODE):
        blocks = {table: block for name, table, block in found if name == pointer and table}
        tables = np.array(list(blocks), np.uint64)
        inside = code.are_data(tables)
        wrong = {
            table: f"lie at {code.describe(table)}, in no certified data" for table in tables[~inside].tolist()
        } | foreign_functions(guest, code, _TABLES[pointer], tables[inside])
        for table, problem in wrong.items():
            what = f"operations of a file system's root ({pointer}): {problem}"
            sample.add(("root", pointer), Check.HOOKS, what, f"super_block at {blocks[table]:#x}")
