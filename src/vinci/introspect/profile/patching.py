# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel may make of its own text: the rules of the trusted image, and the allowed contents that follow."""

from __future__ import annotations

import re
from functools import cached_property

import numpy as np

from vinci.introspect.btf import Layout
from vinci.introspect.profile.elf import SHF_ALLOC, SHT_NOBITS, Elf
from vinci.introspect.sites import Allowed, Builder, Code, Rules, Tables
from vinci.introspect.symbols import Symbols

_BOUNDS = {
    "__mcount_loc": ("__start_mcount_loc", "__stop_mcount_loc"),
    "__jump_table": ("__start___jump_table", "__stop___jump_table"),
    ".static_call_sites": ("__start_static_call_sites", "__stop_static_call_sites"),
}
"""Tables that have no section of their own in vmlinux."""
_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
_RETURN_THUNKS = ("retbleed_return_thunk", "srso_return_thunk", "srso_alias_return_thunk", "its_return_thunk")
_STATIC_CALLS = {
    # preempt= (kernel/sched/core.c, sched_dynamic_update)
    "cond_resched": ("__cond_resched",),
    "might_resched": ("__cond_resched",),
    "preempt_schedule": ("preempt_schedule_thunk", ""),
    "preempt_schedule_notrace": ("preempt_schedule_notrace_thunk", ""),
    "irqentry_exit_cond_resched": ("raw_irqentry_exit_cond_resched", ""),
    # a KVM guest's clock (arch/x86/kernel/{kvm,kvmclock}.c)
    "pv_sched_clock": ("kvm_clock_read", "kvm_sched_clock_read"),
    "pv_steal_clock": ("kvm_steal_clock",),
}
"""Static calls that the kernel re-targets at boot: their key, and what else than their initial function they may call;
the empty name stands for none."""
_OPERATIONS = {
    # a KVM guest's (arch/x86/kernel/kvm.c)
    "mmu.flush_tlb_multi": "kvm_flush_tlb_multi",
    "mmu.tlb_remove_table": "tlb_remove_table",
    "cpu.io_delay": "kvm_io_delay",
    "lock.queued_spin_lock_slowpath": "__pv_queued_spin_lock_slowpath",
    "lock.queued_spin_unlock": "__raw_callee_save___pv_queued_spin_unlock",
    "lock.wait": "kvm_wait",
    "lock.kick": "kvm_kick_cpu",
    "lock.vcpu_is_preempted": "__raw_callee_save___kvm_vcpu_is_preempted",
}
"""Paravirt operations that the kernel replaces at boot."""


class KernelRules:
    """The rules of the trusted kernel, in link addresses. Static call keys are named `__SCK__<key>`."""

    def __init__(self, elf: Elf, symbols: Symbols, layout: Layout) -> None:
        self._elf, self._symbols, self._layout = elf, symbols, layout
        self._base = symbols["pv_ops"]
        self._keys = {
            address: name.removeprefix("__SCK__")
            for name, address in zip(symbols.names, symbols.addresses.tolist(), strict=True)
            if name.startswith("__SCK__")
        }
        self._keys_of = {
            symbols[f"__SCT__{name}"]: key for key, name in self._keys.items() if f"__SCT__{name}" in symbols
        }

    def functions_of(self, key: int) -> list[int]:
        """What a static call of the key at that address may call; nothing when there is no such key.

        A module names the trampoline instead of a key that is not exported.
        """
        key = self._keys_of.get(key, key)
        if key not in self._keys:
            return []
        others = (name for name in _STATIC_CALLS.get(self._keys[key], ()) if not name or name in self._symbols)
        return [self._elf.u64(key), *(self._symbols[name] if name else 0 for name in others)]

    def operations(self, number: int) -> list[int]:
        """What the paravirt operation of that number may be."""
        functions = [self._elf.u64(self._base + 8 * number)]
        if number in self._replaced:
            functions.append(self._replaced[number])
        return [0 if function == self._symbols["_paravirt_nop"] else function for function in functions]

    @cached_property
    def _replaced(self) -> dict[int, int]:
        offset = self._layout.offset
        return {
            offset("paravirt_patch_template", path) // 8: self._symbols[name]
            for path, name in _OPERATIONS.items()
            if name in self._symbols
        }

    @cached_property
    def rules(self) -> Rules:
        """The rules as the builder wants them."""
        thunks = {f"__x86_indirect_thunk_{name}": number for number, name in enumerate(_REGISTERS)}
        return Rules(
            functions_of=self.functions_of,
            operations=self.operations,
            thunks={self._symbols[name]: number for name, number in thunks.items() if name in self._symbols},
            return_thunks=tuple(self._symbols[name] for name in _RETURN_THUNKS if name in self._symbols),
            return_zero=self._symbols["__static_call_return0"],
        )


def kernel_code(elf: Elf, symbols: Symbols) -> Code:
    """The whole image from `_text` to `_end`, as linked."""
    start, end = symbols["_text"], symbols["_end"]
    image = np.zeros(end - start, np.uint8)
    for section in elf.sections:
        if section.flags & SHF_ALLOC and section.type != SHT_NOBITS and start <= section.address < end:
            at = section.address - start
            image[at : at + section.size] = np.frombuffer(elf.content(section.name), np.uint8)
    return Code(start, image)


def allowed_in_text(elf: Elf, symbols: Symbols, layout: Layout) -> list[Allowed]:
    """All that the kernel may have made of its text between `_text` and `_etext`; offsets from `_text`."""
    code = kernel_code(elf, symbols)

    def table(name: str) -> tuple[int, bytes]:
        if name in _BOUNDS:
            start, stop = (symbols[bound] for bound in _BOUNDS[name])
            return start, code.at(start, stop - start)
        return elf.by_name[name].address, bytes(elf.content(name))

    builder = Builder(code, symbols["_text"], symbols["_etext"], KernelRules(elf, symbols, layout).rules)
    for name, address in zip(symbols.names, symbols.addresses.tolist(), strict=True):
        if match := re.fullmatch(r"__SCT__(\w+)", name):
            builder.trampoline(address, symbols[f"__SCK__{match[1]}"])
    return builder.build(Tables.read(table))
