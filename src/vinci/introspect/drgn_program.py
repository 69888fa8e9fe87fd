# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM, running or saved, as a drgn program: for people who look into it, and as an oracle for tests.

Set up from trusted data alone: types, symbols and addresses are those of the image, moved by the slide that the
processors' registers show. What drgn then reads is the guest's, and may lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from drgn import (
    Architecture,
    FaultError,
    FindObjectFlags,
    Object,
    Platform,
    Program,
    Symbol,
    SymbolBinding,
    SymbolKind,
    Type,
)

from vinci.introspect.btf import Kind
from vinci.introspect.drgn_types import DrgnTypes
from vinci.introspect.guest import Budget, Guest
from vinci.introspect.memory import Unreadable
from vinci.introspect.symbols import KERNEL_BASE

_NO_LIMIT = 1 << 62
_VARIABLES = {
    "init_task": "struct task_struct",
    "init_mm": "struct mm_struct",
    "init_net": "struct net",
    "init_pid_ns": "struct pid_namespace",
    "init_user_ns": "struct user_namespace",
    "init_uts_ns": "struct uts_namespace",
    "init_nsproxy": "struct nsproxy",
    "net_namespace_list": "struct list_head",
    "modules": "struct list_head",
    "super_blocks": "struct list_head",
    "slab_caches": "struct list_head",
    "vmap_area_list": "struct list_head",
    "ptype_all": "struct list_head",
    "ftrace_ops_list": "struct ftrace_ops *",
    "kprobe_table": "struct hlist_head [64]",
    "jiffies": "unsigned long",
    "nr_cpu_ids": "unsigned int",
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "__per_cpu_offset": "unsigned long [64]",
    "saved_command_line": "char *",
    "core_pattern": "char [128]",
    "modprobe_path": "char [256]",
    "selinux_state": "struct selinux_state",
    "root_task_group": "struct task_group",
    "page_offset_base": "unsigned long",
    "vmalloc_base": "unsigned long",
    "vmemmap_base": "unsigned long",
}
"""Types of variables that drgn's helpers and investigators ask for; BTF holds none for them."""


def program_of(guest: Guest) -> Program:
    """The guest as a Linux kernel target; drgn's helpers work on it as far as BTF's types carry.

    Raises Unreadable when the kernel's release cannot be read.
    """
    guest.begin(budget=Budget(_NO_LIMIT, _NO_LIMIT, float("inf")))
    program = Program(platform=Platform(Architecture.X86_64))
    for region in guest.memory.regions:
        program.add_memory_segment(region.physical, region.size, _Physical(guest), physical=True)
    program.set_linux_kernel_custom(_vmcoreinfo(guest), is_live=True)
    types = DrgnTypes(program, guest.layout.btf)
    program.register_type_finder("vinci-btf", types.find, enable_index=0)
    program.register_object_finder("vinci-btf", _Variables(guest, types), enable_index=0)
    program.register_symbol_finder("vinci-symbols", _Symbols(guest), enable_index=0)
    return program


def _vmcoreinfo(guest: Guest) -> str:
    """What a crash dump's note would tell (Documentation/admin-guide/kdump/vmcoreinfo.rst), from trusted data."""
    start, profile = guest.profile.start, guest.profile
    lines = {
        "OSRELEASE": profile.kernel_release,
        "PAGESIZE": "4096",
        "SYMBOL(swapper_pg_dir)": f"{guest.symbol('init_top_pgt'):x}",
        "SYMBOL(_stext)": f"{guest.symbol('_stext'):x}",
        "SYMBOL(init_uts_ns)": f"{guest.symbol('init_uts_ns'):x}",
        "KERNELOFFSET": f"{guest.slide:x}",
        "NUMBER(phys_base)": str(guest.physical_base - (guest.slid(start) - KERNEL_BASE)),
        "NUMBER(pgtable_l5_enabled)": str(int(guest.space.levels == 5)),
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


class _Physical:
    """drgn's reader of physical memory."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def __call__(self, address: int, count: int, _offset: int, _physical: bool) -> bytes:
        try:
            return self._guest.memory.read(address, count)
        except Unreadable as error:
            raise FaultError(str(error), address) from None


class _Variables:
    """drgn's finder of variables, functions and enumerators."""

    def __init__(self, guest: Guest, types: DrgnTypes) -> None:
        self._guest = guest
        self._types = types

    def __call__(self, program: Program, name: str, flags: FindObjectFlags, _file: str | None) -> Object | None:
        symbols = self._guest.profile.symbols
        if FindObjectFlags.CONSTANT in flags and name in self._types.constants:
            kind, value = self._types.constants[name]
            return Object(program, kind, value)
        if name not in symbols:
            return None
        address = self._guest.slid(symbols.all(name)[0])
        if FindObjectFlags.VARIABLE in flags and (found := self._type(program, name)) is not None:
            return Object(program, found, address=address)
        if FindObjectFlags.FUNCTION in flags:
            try:
                function = self._types.type(self._guest.layout.btf.find(name, Kind.FUNC))
            except KeyError:
                return None
            return Object(program, function, address=address)
        return None

    def _type(self, program: Program, name: str) -> Type | None:
        if (words := _VARIABLES.get(name)) is None:
            return self._types.variable(name)
        return program.type(words)


class _Symbols:
    """drgn's finder of symbols."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def __call__(self, _program: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        symbols, slide = self._guest.profile.symbols, self._guest.slide
        if name is not None:
            found = [self._symbol(name, self._guest.slid(link)) for link in symbols.all(name)]
            found = [s for s in found if address is None or s.address <= address < s.address + max(s.size, 1)]
        elif address is not None and self._guest.slid(symbols["_text"]) <= address < self._guest.profile.end + slide:
            link = np.uint64(address - slide)
            at = int(np.searchsorted(symbols.addresses, link, "right")) - 1
            found = [self._symbol(symbols.names[at], int(symbols.addresses[at]) + slide)]
        else:
            found = []
        return found[:1] if one else found

    def _symbol(self, name: str, address: int) -> Symbol:
        link, addresses = np.uint64(address - self._guest.slide), self._guest.profile.symbols.addresses
        after = int(np.searchsorted(addresses, link, "right"))
        size = int(addresses[after]) - int(link) if after < len(addresses) else 1
        return Symbol(name, address, min(size, 1 << 24), SymbolBinding.GLOBAL, SymbolKind.UNKNOWN)
