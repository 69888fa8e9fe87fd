# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's processors, from the text of QEMU's `info registers -a`: where the search for its kernel begins."""

from __future__ import annotations

import re
from dataclasses import dataclass

CR0_WP = 1 << 16
CR0_PG = 1 << 31
CR4_LA57 = 1 << 12
CR4_UMIP = 1 << 11
CR4_SMEP = 1 << 20
CR4_SMAP = 1 << 21
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11

RESET_INSTRUCTION = 0xFFF0
"""EIP after a reset."""

_CPU = re.compile(r"^CPU#(\d+)\s*$", re.MULTILINE)
_NUMBER = re.compile(r"\b(RIP|EIP|CR0|CR3|CR4|EFER|CPL|HLT|RSP|ESP) ?=\s*([0-9a-f]+)")
_TABLE = re.compile(r"^(IDT|GDT)=\s+([0-9a-f]+) ([0-9a-f]+)\s*$", re.MULTILINE)
_SEGMENT = re.compile(r"^(FS|GS|TR) ?=([0-9a-f]{4}) ([0-9a-f]+) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Processor:
    """One virtual processor's state; addresses are virtual but `cr3`, which is physical with flags in its low bits."""

    number: int
    instruction: int
    stack: int
    privilege: int
    halted: bool
    cr0: int
    cr3: int
    cr4: int
    efer: int
    idt: int
    idt_limit: int
    gdt: int
    fs: int
    gs: int
    tr: int

    @property
    def long_mode(self) -> bool:
        """Whether it runs a 64-bit kernel with paging on; false for one that was never started."""
        return bool(self.efer & EFER_LMA) and bool(self.cr0 & CR0_PG)

    @property
    def parked(self) -> bool:
        """Whether it waits to be started, as after a reset (Intel SDM vol. 3A, 9.1.4): nothing ran on it yet."""
        return self.halted and self.instruction == RESET_INSTRUCTION and not self.cr0 & CR0_PG

    @property
    def levels(self) -> int:
        """Page table levels in use: 4 or 5."""
        return 5 if self.cr4 & CR4_LA57 else 4


def parse_registers(text: str) -> tuple[Processor, ...]:
    """All processors of an `info registers -a`. Raises ValueError when there is none or one lacks a register."""
    parts = _CPU.split(text)
    processors = tuple(_processor(int(number), body) for number, body in zip(parts[1::2], parts[2::2], strict=True))
    if not processors:
        raise ValueError("`info registers -a` shows no processor")
    return processors


def _processor(number: int, text: str) -> Processor:
    values = {name: int(value, 16) for name, value in _NUMBER.findall(text)}
    tables = {name: (int(base, 16), int(limit, 16)) for name, base, limit in _TABLE.findall(text)}
    bases = {name: int(base, 16) for name, _, base in _SEGMENT.findall(text)}
    try:
        return Processor(
            number=number,
            instruction=values["RIP"] if "RIP" in values else values["EIP"],  # EIP: not yet in 64-bit mode
            stack=values["RSP"] if "RSP" in values else values["ESP"],
            privilege=values["CPL"],
            halted=bool(values["HLT"]),
            cr0=values["CR0"],
            cr3=values["CR3"],
            cr4=values["CR4"],
            efer=values["EFER"],
            idt=tables["IDT"][0],
            idt_limit=tables["IDT"][1],
            gdt=tables["GDT"][0],
            fs=bases["FS"],
            gs=bases["GS"],
            tr=bases["TR"],
        )
    except KeyError as missing:
        raise ValueError(f"`info registers -a` shows no {missing.args[0]} of processor {number}") from missing
