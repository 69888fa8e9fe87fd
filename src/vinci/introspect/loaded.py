# SPDX-License-Identifier: GPL-2.0-or-later
"""The modules of a guest, by three ways that have to agree: its list, its search tree, and a scan of memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vinci.introspect.guest import Guest, printable
from vinci.introspect.memory import Implausible, Unreadable
from vinci.introspect.paging import Mappings
from vinci.introspect.structs import struct_reader

MODULES_START = 0xFFFF_FFFF_C000_0000
MODULES_END = 0xFFFF_FFFF_FF00_0000
"""MODULES_VADDR and MODULES_END of a kernel with KASLR (asm/pgtable_64_types.h)."""
MAX_MODULES = 1024
STATES = ("live", "coming", "going", "unformed")
_ALIGNMENT = 64
"""struct module is cache-line aligned."""


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A struct module as it was read once; what it says is the guest's word."""

    address: int
    name: str
    state: str
    base: int
    size: int
    text: int
    read_only: int
    init: int
    init_size: int
    init_text: int
    per_cpu: int
    taints: int

    @property
    def initialising(self) -> bool:
        """Whether its initialisation is still in memory, to be run."""
        return bool(self.init) and self.state == "coming"

    def text_holds(self, address: int) -> bool:
        """Whether an address lies in its text, the initialisation's included."""
        in_init = self.initialising and self.init <= address < self.init + self.init_text
        return self.base <= address < self.base + self.text or in_init


_FIELDS = {
    "state": "state",
    "base": "core_layout.base",
    "size": "core_layout.size",
    "text": "core_layout.text_size",
    "read_only": "core_layout.ro_size",
    "init": "init_layout.base",
    "init_size": "init_layout.size",
    "init_text": "init_layout.text_size",
    "per_cpu": "percpu",
    "taints": "taints",
}


def read_module(guest: Guest, address: int) -> LoadedModule:
    """Read one struct module, once in a look. Raises Implausible."""
    return guest.shared(f"module {address:x}", lambda: _read_module(guest, address))


def _read_module(guest: Guest, address: int) -> LoadedModule:
    reader = struct_reader(guest.layout, "module", "name", *_FIELDS.values())
    name, *values = reader.read(guest, address)
    numbers = dict(zip(_FIELDS, values, strict=True))
    state = numbers.pop("state")
    if not isinstance(name, bytes) or not isinstance(state, int) or state >= len(STATES):
        raise Implausible(f"no module at {address:#x}")
    return LoadedModule(address, printable(name.partition(b"\0")[0]), STATES[state], **numbers)  # type: ignore[arg-type]


def listed(guest: Guest) -> list[int]:
    """Addresses of the modules on the kernel's list, `modules`. Raises Implausible."""
    offset = guest.layout.offset("module", "list")
    head = guest.symbol("modules")
    found: list[int] = []
    node = guest.u64(head)
    while node != head:
        found.append(node - offset)
        if len(found) > MAX_MODULES:
            raise Implausible("the list of modules does not end")
        node = guest.u64(node)
    return found


def in_tree(guest: Guest) -> list[set[int]]:
    """Addresses of the modules in both copies of the tree by which the kernel finds code, `mod_tree`.

    A latch tree: while one copy changes the other is whole. Raises Implausible.
    """
    size = guest.layout.size("latch_tree_node") // 2
    root = guest.symbol("mod_tree") + guest.layout.offset("mod_tree_root", "root.tree")
    return [set(_tree(guest, root + copy * guest.layout.size("rb_root"), copy * size)) for copy in (0, 1)]


def _tree(guest: Guest, root: int, offset: int) -> Iterator[int]:
    module = guest.layout.offset("mod_tree_node", "mod") - guest.layout.offset("mod_tree_node", "node") - offset
    reader = struct_reader(guest.layout, "rb_node", "rb_left", "rb_right")
    waiting = [guest.u64(root)]
    visits = 0
    while waiting:
        node = waiting.pop()
        if not node:
            continue
        visits += 1
        if visits > 2 * MAX_MODULES:  # a node for each module's core, one for its initialisation
            raise Implausible("the tree of modules does not end")
        waiting += reader.words(guest, node)
        yield guest.u64(node + module)


def module_area(guest: Guest) -> Mappings:
    """Everything mapped where modules are loaded. Raises Implausible."""
    return guest.mappings(MODULES_START, MODULES_END, max_tables=1024, max_mappings=1 << 17)


def scanned(guest: Guest, area: Mappings) -> set[int]:
    """Addresses of whatever looks like a struct module: one of its two pointers to itself is in its place.

    Found thus is also what is on no list; a module that erased both is told by its executable pages.
    """
    found: set[int] = set()
    pages = np.flatnonzero((area.size == np.uint64(4096)) & area.writable)
    frames = guest.memory.frames_of(area.physical[pages])
    pages, frames = pages[frames >= 0], frames[frames >= 0]
    guest.budget.spend(len(pages) * 512)
    for path in ("mkobj.mod", "core_layout.mtn.mod"):
        offset = guest.layout.offset("module", path)
        columns = np.arange(offset % _ALIGNMENT // 8, 512, _ALIGNMENT // 8)
        words = guest.memory.tables[frames[:, None], columns]
        own = area.virtual[pages][:, None] + (columns * 8).astype(np.uint64) - np.uint64(offset)
        found.update(own[words == own].tolist())
    return found


def plausible(guest: Guest, addresses: set[int]) -> Iterator[LoadedModule]:
    """The modules at those addresses that can be read and have a base among modules."""
    for address in sorted(addresses)[:MAX_MODULES]:
        try:
            module = read_module(guest, address)
        except Unreadable:
            continue
        except Implausible:
            continue
        if MODULES_START <= module.base < MODULES_END and not module.base % 4096:
            yield module
