# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of `/proc` that lead somewhere, by the trees that they are in (linux/fs/proc/internal.h, generic.c).

One that was freed still names the table of a module that was unloaded, and another module may lie there by now.
"""

from __future__ import annotations

from vinci.introspect.guest import Guest, struct_reader
from vinci.introspect.lists import Broken

_MAX_ENTRIES = 1 << 16


def is_given_up(guest: Guest, entry: int) -> bool:
    """Whether nothing counts on an entry any more and no tree leads to it. Raises Unreadable, Broken.

    The count is the guest's word, hence the trees: what they lead to is used, whatever it says of itself.
    """
    if guest.u32(entry + guest.layout.offset("proc_dir_entry", "refcnt")):
        return False
    return entry not in guest.shared("entries of /proc", lambda: _entries(guest))


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
