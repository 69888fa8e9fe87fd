# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the kernel in a VM's memory from its processors' registers, trusting nothing that the guest wrote.

A processor's interrupt descriptor table leads to the entry of exception 0, whose link address is known: the difference
is the slide. Where the text then lies physically, the trusted bytes have to be: an attacker may move a table, but not
the kernel under it without that being seen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vinci.introspect.guest import Guest
from vinci.introspect.memory import GuestMemory, Unreadable
from vinci.introspect.paging import AddressSpace, translate
from vinci.introspect.profile import Profile
from vinci.introspect.registers import Processor, parse_registers

ALIGNMENT = 2 << 20
"""CONFIG_PHYSICAL_ALIGN: KASLR moves the kernel in steps of it, virtually and physically."""
_KPTI_USER = 1 << 12


class KernelNotFoundError(Exception):
    """The trusted kernel is not where the processors say, or not in memory at all: not booted yet, or replaced."""


def attach(memory: GuestMemory, registers: str, profile: Profile) -> Guest:
    """Attach to a VM whose kernel runs.

    Args:
        registers: the text of `info registers -a`.

    Raises KernelNotFoundError when no processor leads to the trusted kernel, ValueError for senseless `registers`.
    """
    processors = parse_registers(registers)
    problem = "no processor runs a 64-bit kernel"
    for processor in processors:
        if processor.long_mode:
            try:
                return _attached(memory, profile, processors, processor)
            except Unreadable as unreadable:
                problem = f"processor {processor.number}: {unreadable}"
    raise KernelNotFoundError(problem)


def _attached(memory: GuestMemory, profile: Profile, processors: tuple[Processor, ...], processor: Processor) -> Guest:
    slide, physical = locate(memory, profile, processor)
    root = profile.symbols["init_top_pgt"] - profile.start + physical
    return Guest(memory, profile, processors, slide, physical, AddressSpace(root, processor.levels))


def kernel_space(memory: GuestMemory, processor: Processor, address: int) -> AddressSpace:
    """The address space with which the processor runs the kernel: the one of its CR3 in which `address` is mapped.

    In user mode with page table isolation that is the table beside CR3's. Raises Unreadable.
    """
    space = AddressSpace.of(processor.cr3, processor.levels)
    if processor.privilege == 3:
        try:
            translate(memory, space, address)
        except Unreadable:
            return replace(space, root=space.root & ~_KPTI_USER)
    return space


def locate(memory: GuestMemory, profile: Profile, processor: Processor) -> tuple[int, int]:
    """The slide and the physical address of `_text`, as one processor shows them. Raises Unreadable."""
    handler = _divide_error_handler(memory, processor)
    slide = handler - profile.symbols["asm_exc_divide_error"]
    text = profile.start + slide
    if slide % ALIGNMENT or not 0 <= slide < 1 << 30:
        raise Unreadable(f"the handler of exception 0 is at {handler:#x}, where the kernel cannot have it")
    return slide, translate(memory, kernel_space(memory, processor, text), text).physical


def _divide_error_handler(memory: GuestMemory, processor: Processor) -> int:
    """The address in the first gate of the interrupt descriptor table (Intel SDM vol. 3A, 6.14.1)."""
    space = AddressSpace.of(processor.cr3, processor.levels)
    gate = memory.read(translate(memory, space, processor.idt).physical, 16)
    return int.from_bytes(gate[0:2] + gate[6:8] + gate[8:12], "little")


def anchors(memory: GuestMemory, profile: Profile) -> list[int]:
    """Every physical address at which the trusted text lies, by scanning RAM: an answer that needs no register.

    Compared are bytes that neither relocation nor the kernel's patching of itself changes.
    """
    wanted, fixed = profile.anchor
    sample = np.flatnonzero(fixed)[:64]  # most places are told by these
    found = []
    for region in memory.regions:
        first = -(-region.physical // ALIGNMENT) * ALIGNMENT
        places = np.arange(first, region.physical + region.size - len(wanted) + 1, ALIGNMENT)
        seen = memory.bytes[(places - region.physical + region.offset)[:, None] + sample]
        for physical in places[(seen == wanted[sample]).all(axis=1)].tolist():
            if np.array_equal(memory.view(physical, len(wanted))[fixed], wanted[fixed]):
                found.append(physical)
    return found
