# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's linked structures, followed in a guest that may have tied them into knots.

Every walk is bounded and remembers nothing but where it is: a cycle ends at the bound, a link that does not point back
is a finding at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vinci.introspect.guest import Guest
from vinci.introspect.memory import Implausible

_PAIR = struct.Struct("<QQ")
_NODE_SLOTS = 64
_MAX_DEPTH = 11
"""Levels of an xarray of 64-bit indices with 6 bits each."""


class Broken(Implausible):
    """A structure that no running kernel has: a cycle, a link back that does not match, or far too many entries."""


def list_entries(guest: Guest, head: int, limit: int) -> Iterator[int]:
    """The addresses of the `list_head`s on the list `head`, without `head`.

    Raises Broken when the list has more than `limit` entries or a `prev` does not point back; Unreadable.
    """
    before, at = head, guest.u64(head)
    for _ in range(limit + 1):
        if at == head:
            return
        following, prev = guest.unpack(_PAIR, at)
        if prev != before:
            raise Broken(f"the list at {guest.describe(head)} is torn at {at:#x}")
        yield at
        before, at = at, following
    raise Broken(f"the list at {guest.describe(head)} has more than {limit} entries or does not end")


def chain(guest: Guest, first: int, next_offset: int, limit: int) -> Iterator[int]:
    """The addresses of objects that are linked by a pointer at `next_offset` and end with NULL (`hlist_node`s too).

    Raises Broken when there are more than `limit`; Unreadable.
    """
    at = first
    for _ in range(limit + 1):
        if not at:
            return
        yield at
        at = guest.u64(at + next_offset)
    raise Broken(f"the chain at {guest.describe(first)} has more than {limit} entries or does not end")


def xarray_entries(guest: Guest, head: int, limit: int) -> list[tuple[int, int]]:
    """Index and pointer of each entry of an xarray or IDR (linux/include/linux/xarray.h), ascending.

    Args:
        head: the value of `xa_head`.

    Values that are no pointers (`xa_mk_value`, sibling and retry entries) are left out.
    Raises Broken when it is deeper than a 64-bit index needs or has more than `limit` entries; Unreadable.
    """
    shift_at = guest.layout.offset("xa_node", "shift")
    slots_at = guest.layout.offset("xa_node", "slots")
    found: list[tuple[int, int]] = []
    waiting = [(0, head, 6 * _MAX_DEPTH)]
    nodes = 0
    while waiting:
        index, entry, above = waiting.pop()
        if entry & 3 != 2 or entry <= 4096:
            if entry and not entry & 3:
                found.append((index, entry))
                if len(found) > limit:
                    raise Broken(f"an index has more than {limit} entries")
            continue
        node = entry & ~3
        shift = guest.read(node + shift_at, 1)[0]
        nodes += 1
        if shift % 6 or shift >= above or nodes > limit:
            raise Broken(f"an index has a node at {node:#x} that cannot be there")
        slots = struct.unpack(f"<{_NODE_SLOTS}Q", guest.read(node + slots_at, 8 * _NODE_SLOTS))
        waiting += [
            (index + (slot << shift), slots[slot], shift) for slot in reversed(range(_NODE_SLOTS)) if slots[slot]
        ]
    return found
