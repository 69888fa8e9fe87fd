# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of `/proc` that lead somewhere, by the trees that they are in (linux/fs/proc/internal.h, generic.c).

One that was freed still names the table of a module that was unloaded, and another module may lie there by now.
"""

from __future__ import annotations

from vinci.introspect.guest import Guest
from vinci.introspect.linear import LinearMap
from vinci.introspect.lists import Broken
from vinci.introspect.slabs import Slabs
from vinci.introspect.structs import struct_reader

_MAX_ENTRIES = 1 << 16


def is_given_up(guest: Guest, entry: int) -> bool:
    """Whether nothing counts on an entry any more and no tree and no inode leads to it. Raises Unreadable, Broken.

    The count is the guest's word, hence the others: what they lead to is used, whatever it says of itself. Who looks a
    name up again is given the inode that is cached under it, in whatever tree its entry is; one that is let go of names
    none (`proc_evict_inode`).
    """
    if guest.u32(entry + guest.layout.offset("proc_dir_entry", "refcnt")):
        return False
    return entry not in guest.shared("entries of /proc", lambda: _entries(guest) | _of_inodes(guest))


def _of_inodes(guest: Guest) -> set[int]:
    linear = LinearMap.of(guest)
    inodes = Slabs.of(linear).objects("proc_inode_cachep")
    return set(linear.words(inodes, guest.layout.offset("proc_inode", "pde")).tolist())


def _entries(guest: Guest) -> set[int]:
    """Every entry below the root of `/proc` and below that of the network namespace."""
    layout = guest.layout
    node_at, below_at = layout.offset("proc_dir_entry", "subdir_node"), layout.offset("proc_dir_entry", "subdir")
    node = struct_reader(layout, "rb_node", "rb_left", "rb_right")
    network = guest.u64(guest.symbol("init_net") + layout.offset("net", "proc_net"))
    found = {guest.symbol("proc_root"), network}
    waiting = [guest.u64(root + below_at) for root in found if root]
    seen: set[int] = set()
    while waiting:
        at = waiting.pop()
        if not at or at in seen:
            continue
        if len(seen) >= _MAX_ENTRIES:
            raise Broken("the trees of /proc have more entries than any honest guest's")
        seen.add(at)
        entry = at - node_at
        found.add(entry)
        waiting += [*node.words(guest, at), guest.u64(entry + below_at)]
    return found
