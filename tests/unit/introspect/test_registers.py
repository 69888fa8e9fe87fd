# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's registers: a running processor, and one that was never started."""

from __future__ import annotations

import pytest

from vinci.introspect.registers import parse_registers

RUNNING = """
CPU#0
RAX=000000000001ad40 RBX=0000000000000000 RCX=ff340b5d8129fa60 RDX=4000000000000000
RSI=0000000000000000 RDI=000000000000f4cc RBP=ffffffffb5a1aa40 RSP=ffffffffb5a03e98
R8 =ffffffffffc62558 R9 =000000002dd24d46 R10=00000000fffffffb R11=0000000000000000
RIP=ffffffffb4a17a0b RFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=1
CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
FS =0000 0000000000000001 00000000 00000000
GS =0000 ff340b5d9f000000 00000000 00000000
TR =0040 fffffe0000003000 00004087 00008900 DPL=0 TSS64-avl
GDT=     fffffe0000001000 0000007f
IDT=     fffffe0000000000 00000fff
CR0=80050033 CR2=00007fa85837d5e0 CR3=000000001fcdc000 CR4=00751eb0
EFER=0000000000000d01
"""
PARKED = """CPU#1
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000663
ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000
EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1
FS =0000 00000000 0000ffff 00009300
GS =0000 00000000 0000ffff 00009300
TR =0000 00000000 0000ffff 00008b00
GDT=     00000000 0000ffff
IDT=     00000000 0000ffff
CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
EFER=0000000000000000
"""


def test_a_running_and_a_parked_processor() -> None:
    running, parked = parse_registers(RUNNING + "\n" + PARKED)
    assert (running.number, running.privilege, running.levels, running.long_mode) == (0, 3, 5, True)
    assert (running.cr3, running.idt, running.idt_limit) == (0x1FCDC000, 0xFFFFFE0000000000, 0xFFF)
    assert (running.gs, running.fs, running.instruction) == (0xFF340B5D9F000000, 1, 0xFFFFFFFFB4A17A0B)
    assert (parked.number, parked.instruction, parked.long_mode) == (1, 0xFFF0, False)


def test_parked_is_who_waits_as_after_a_reset() -> None:
    for text, is_parked in (
        (PARKED, True),
        (PARKED.replace("HLT=1", "HLT=0"), False),
        (PARKED.replace("0000fff0", "00008000"), False),
        (PARKED.replace("CR0=6", "CR0=e"), False),
    ):
        assert parse_registers(text)[0].parked is is_parked


def test_what_is_not_complete_is_refused() -> None:
    with pytest.raises(ValueError, match="no processor"):
        parse_registers("unknown command")
    with pytest.raises(ValueError, match="no CR3 of processor 1"):
        parse_registers(RUNNING + PARKED.replace("CR3", "XX3"))
