# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt descriptor table: each gate leads to an entry that the kernel has for its vector.

Gates: Intel SDM vol. 3A, 6.14.1.
"""

from __future__ import annotations

import struct

from vinci.introspect.code import Code
from vinci.introspect.findings import Check
from vinci.introspect.guest import Guest
from vinci.introspect.hooks.trusted import VECTORS, HookTables
from vinci.introspect.sampling import Sample

_GATE = struct.Struct("<HHHHII")
_PRESENT = 0x8000
_KERNEL_CODE = 0x10
"""__KERNEL_CS."""


def look(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """Compare every gate with the entries that the image has for it. Raises Unreadable."""
    table = guest.read(guest.symbol("idt_table"), VECTORS * _GATE.size)
    for vector, (low, selector, kind, middle, high, _) in enumerate(_GATE.iter_unpack(table)):
        handler = low | middle << 16 | high << 32
        if not kind & _PRESENT:
            continue
        sample.examined += 1
        if selector != _KERNEL_CODE or handler - guest.slide not in trusted.gates[vector]:
            what = f"the interrupt gate {vector:#x} leads to {code.describe(handler)}"
            sample.add(("gate", vector, handler), Check.HOOKS, what, f"idt_table+{vector * _GATE.size:#x}")
