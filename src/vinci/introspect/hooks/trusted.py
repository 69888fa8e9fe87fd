# SPDX-License-Identifier: GPL-2.0-or-later
"""What the trusted image says of the kernel's hooks, worked out once for each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vinci.introspect.memory import Words
from vinci.introspect.profile import Profile

_CHOSEN_AT_BOOT = frozenset(
    {
        # by the interrupt controllers and the bus that the machine has
        "__acpi_register_gsi",
        "__acpi_unregister_gsi",
        "acpi_unregister_gsi",
        "i8259A_chip",
        "legacy_pic",
        "pcibios_disable_irq",
        "pcibios_enable_irq",
        # by the processor and its clocks
        "delay_fn",
        "x86_platform",
        # by the live patch of an FS-VM; who uses ftrace is looked at by itself
        "ftrace_graph_entry",
        "ftrace_trace_function",
        # by the hypervisor
        "machine_ops",
        "smp_ops",
        "pv_ops",
    }
)
"""Variables in which the kernel puts another function of its own when it starts."""
_STATIC_CALL_KEY = "__SCK__"
"""What a static call's key says is only the kernel's note: what is called stands in the text, and is checked there."""
_FIRST_EXTERNAL_VECTOR = 0x20
VECTORS = 256
_GATE_TABLES = ("early_idts", "def_idts", "apic_idts", "ia32_idt")
_GATE_STUBS = ("irq_entries_start", "spurious_entries_start")
_STUB_SIZE = 8
_PAGE_FAULT_VECTOR = 14
_EARLY_STUB_SIZE = 9
"""EARLY_IDT_HANDLER_SIZE; vectors that no exception has keep the boot's entry."""


@dataclass(frozen=True, slots=True)
class Pointers:
    """Pointers in a part of the image that begins at link address `start`.

    They lie at the link addresses `sites` and point to the link addresses `targets`; those in `free` may point to
    another function.
    """

    start: int
    sites: Words
    targets: Words
    free: npt.NDArray[np.bool_]

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The number of each pointer's word from `start`."""
        return ((self.sites - np.uint64(self.start)) >> np.uint64(3)).astype(np.int64)


class HookTables:
    """Pointers to functions and to constants, gates of interrupts, and tracepoints of one kernel image."""

    def __init__(self, profile: Profile) -> None:
        symbols = profile.symbols
        self.functions: list[Pointers] = []
        self.constants: list[Pointers] = []
        for first, last in (("_sdata", "_edata"), ("__start_ro_after_init", "__end_ro_after_init")):
            functions, constants = _pointers(profile, -(-symbols[first] // 8) * 8, symbols[last])
            self.functions.append(functions)
            self.constants.append(constants)
        self.gates = _gates(profile)
        self.tracepoints = _tracepoints(profile)


def _pointers(profile: Profile, start: int, end: int) -> tuple[Pointers, Pointers]:
    """The pointers to functions and to constants between two link addresses."""
    content = np.frombuffer(profile.elf.at(start, (end - start) // 8 * 8), np.uint64)
    sites = np.asarray(profile.relocations64)
    sites = sites[(sites >= np.uint64(start)) & (sites < np.uint64(end - 7)) & (sites % np.uint64(8) == 0)]
    targets = content[((sites - np.uint64(start)) >> np.uint64(3)).astype(np.int64)]

    def pointing(first: str, last: str) -> Pointers:
        symbols = profile.symbols
        mine = (targets >= np.uint64(symbols[first])) & (targets < np.uint64(symbols[last]))
        free = [_is_free(symbols.describe(site).partition("+")[0]) for site in sites[mine].tolist()]
        return Pointers(start, sites[mine], targets[mine], np.array(free, np.bool_))

    return pointing("_stext", "_etext"), pointing("__start_rodata", "__end_rodata")


@lru_cache(maxsize=1 << 15)
def _is_free(variable: str) -> bool:
    return variable in _CHOSEN_AT_BOOT or variable.startswith(_STATIC_CALL_KEY)


def _gates(profile: Profile) -> Mapping[int, frozenset[int]]:
    """The link addresses of the entries that the image has for each interrupt vector.

    Sources: linux/arch/x86/kernel/idt.c, arch/x86/include/asm/idtentry.h.
    """
    found: dict[int, set[int]] = defaultdict(set)
    symbols, layout = profile.symbols, profile.layout
    size, address = layout.size("idt_data"), layout.offset("idt_data", "addr")
    for name in (name for name in _GATE_TABLES if name in symbols):
        at = symbols[name]
        end = int(symbols.addresses[symbols.addresses.searchsorted(at, "right")])
        while at + size <= end:
            record = bytes(profile.elf.at(at, size))
            found[int.from_bytes(record[:4], "little")].add(int.from_bytes(record[address : address + 8], "little"))
            at += size
    for stub in _GATE_STUBS:
        for vector in range(_FIRST_EXTERNAL_VECTOR, VECTORS):
            found[vector].add(symbols[stub] + (vector - _FIRST_EXTERNAL_VECTOR) * _STUB_SIZE)
    for vector in range(_FIRST_EXTERNAL_VECTOR):
        found[vector].add(symbols["early_idt_handler_array"] + vector * _EARLY_STUB_SIZE)
    found[_PAGE_FAULT_VECTOR].add(symbols["asm_exc_page_fault"])
    return {vector: frozenset(found[vector]) for vector in range(VECTORS)}


def _tracepoints(profile: Profile) -> Words:
    """The link addresses of all tracepoints; not of the keys and names that share their prefix."""
    symbols = profile.symbols
    named = {name for name in symbols.names if name.startswith("__tracepoint_")}
    sites = sorted(symbols[name] for name in named if len(symbols.all(name)) == 1)
    return np.array([site for site in sites if symbols["_sdata"] <= site < symbols["_edata"]], np.uint64)
