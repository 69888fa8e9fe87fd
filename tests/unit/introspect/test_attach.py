# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding a kernel by its interrupt descriptor table, in page tables that the test writes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from vinci.introspect.attach import ALIGNMENT, KernelNotFoundError, attach, kernel_space
from vinci.introspect.btf import Layout
from vinci.introspect.memory import GuestMemory, Region
from vinci.introspect.paging import LARGE, PRESENT, WRITABLE, AddressSpace
from vinci.introspect.profile import Profile
from vinci.introspect.profile.elf import Elf
from vinci.introspect.registers import parse_registers
from vinci.introspect.symbols import Symbols

TEXT = 0xFFFF_FFFF_8100_0000
ENTRY, ROOT = TEXT + 0x990, TEXT + 0x20_0000
IDT = 0xFFFF_FE00_0000_0000
SIZE = 16 << 20
PHYSICAL = 6 << 20
LOW, TABLES, GATES, USER_HALF = 0x1000, 0x10_0000, 0x20_0000, 0x1000
REGISTERS = """CPU#0
RIP=0000000000401000 RSP=0 CPL={cpl} HLT=0
FS =0000 0000000000000000 00000000 00000000
GS =0000 0000000000000000 00000000 00000000
TR =0040 0000000000000000 00004087 00008900 DPL=0 TSS64-avl
GDT=     fffffe0000001000 0000007f
IDT=     fffffe0000000000 00000fff
CR0={cr0:x} CR2=0 CR3={cr3:016x} CR4=00000020
EFER=0000000000000d01
"""


def profile() -> Profile:
    names = b"_text\nasm_exc_divide_error\ninit_top_pgt\n_end"
    symbols = Symbols(np.array([TEXT, ENTRY, ROOT, TEXT + (8 << 20)], np.uint64), names)
    none = np.zeros(0, np.uint64)
    return Profile(Path(), "", cast(Elf, None), cast(Layout, None), symbols, none, none, none)


def ram(slide: int, handler: int) -> GuestMemory:
    """Kernel tables at TABLES that map the text and the gates; beside them a user's, which lacks the text."""
    memory = bytearray(SIZE)

    def entry(table: int, index: int, value: int) -> None:
        struct.pack_into("<Q", memory, table + 8 * index, value | PRESENT | WRITABLE)

    kernel, user, upper, middle, gates, low, last = (TABLES + n * 0x1000 for n in range(7))
    text = TEXT + slide
    entry(kernel, 511, upper)
    for root in (kernel, user):
        entry(root, IDT >> 39 & 511, gates)
    entry(upper, text >> 30 & 511, middle)
    entry(middle, text >> 21 & 511, PHYSICAL | LARGE)
    entry(gates, 0, low)
    entry(low, 0, last)
    entry(last, 0, GATES)
    gate = handler & 0xFFFF, 0x10, 0x8E00, handler >> 16 & 0xFFFF, handler >> 32 & 0xFFFFFFFF, 0
    struct.pack_into("<HHHHII", memory, GATES, *gate)
    return GuestMemory(memory, (Region(0, SIZE, 0),))


def registers(cr3: int = TABLES, cpl: int = 0, cr0: int = 0x80050033) -> str:
    return REGISTERS.format(cr3=cr3, cpl=cpl, cr0=cr0)


@pytest.mark.parametrize("slide", [0, 15 * ALIGNMENT])
def test_slide_and_place_are_found_in_kernel_and_user_mode(slide: int) -> None:
    memory = ram(slide, ENTRY + slide)
    for text in (registers(), registers(TABLES | 0x1000, cpl=3), registers(TABLES, cpl=3)):
        guest = attach(memory, text, profile())
        assert (guest.slide, guest.physical_base) == (slide, PHYSICAL)
        assert guest.space == AddressSpace(PHYSICAL + ROOT - TEXT, 4)


def test_only_in_user_mode_is_the_table_beside_taken() -> None:
    memory = ram(0, ENTRY)
    (kernel,) = parse_registers(registers(TABLES | 0x1000))
    (user,) = parse_registers(registers(TABLES | 0x1000, cpl=3))
    assert kernel_space(memory, kernel, TEXT).root == TABLES | 0x1000
    assert kernel_space(memory, user, TEXT).root == TABLES


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (ENTRY + 1, registers()),  # no slide that the kernel can have
        (ENTRY - ALIGNMENT, registers()),
        (ENTRY + (1 << 30), registers()),
        (0, registers()),
        (ENTRY + ALIGNMENT, registers()),  # a place where nothing is mapped
        (ENTRY, registers(cr3=SIZE)),
        (ENTRY, registers(cr3=0)),
        (ENTRY, registers(cr0=0x33)),  # paging is off
    ],
)
def test_no_kernel_is_found_where_none_can_be(handler: int, text: str) -> None:
    with pytest.raises(KernelNotFoundError):
        attach(ram(0, handler), text, profile())
