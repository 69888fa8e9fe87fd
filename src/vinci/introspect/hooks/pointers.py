# SPDX-License-Identifier: GPL-2.0-or-later
"""Every pointer to code or to constant data that the kernel's image was linked with, still as it was linked.

The relocation table names them all: about 10,000 pointers to functions (of file operations, protocols, notifiers,
security hooks) and 20,000 to constants in writable data. In a clean guest nine have changed, and they are known.
"""

from __future__ import annotations

import numpy as np

from vinci.introspect.code import Code
from vinci.introspect.findings import Check
from vinci.introspect.guest import Guest
from vinci.introspect.hooks.trusted import HookTables, Pointers
from vinci.introspect.memory import PAGE_SIZE, Words
from vinci.introspect.sampling import Sample


def look(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """Compare all static pointers with the image's. Raises Unreadable."""
    _check_place(guest, sample)
    for functions in trusted.functions:
        _check_functions(guest, code, functions, sample)
    for constants in trusted.constants:
        _check_constants(guest, code, constants, sample)


def _check_place(guest: Guest, sample: Sample) -> None:
    """The kernel must see its data where the checker reads it."""
    start, end = guest.symbol("_sdata") & -PAGE_SIZE, guest.symbol("_edata")
    pages = guest.mappings(start, end)
    offset = np.uint64(guest.physical_base - guest.slid(guest.profile.start) & 0xFFFF_FFFF_FFFF_FFFF)
    astray = pages.virtual[pages.virtual + offset != pages.physical]
    if int(pages.size.sum()) < end - start or len(astray):
        where = guest.describe(int(astray[0])) if len(astray) else guest.describe(start)
        sample.add("data moved", Check.HOOKS, "the kernel's data is not mapped where the image lies", where)


def _values(guest: Guest, pointers: Pointers) -> Words:
    last = int(pointers.sites[-1]) + 8 if len(pointers.sites) else pointers.start
    words = guest.image(pointers.start, last - pointers.start).view(np.uint64)
    return words[pointers.rows]


def _check_functions(guest: Guest, code: Code, pointers: Pointers, sample: Sample) -> None:
    values = _values(guest, pointers)
    sample.examined += len(values)
    slide = np.uint64(guest.slide)
    changed = np.flatnonzero(values != pointers.targets + slide)
    allowed = pointers.free[changed] & (code.are_functions(values[changed]) | (values[changed] == 0))
    for row in changed[~allowed].tolist():
        site, value = int(pointers.sites[row]) + guest.slide, int(values[row])
        linked = guest.profile.symbols.describe(int(pointers.targets[row])).removesuffix("+0x0")
        what = f"a pointer to the function {linked} was changed to {code.describe(value)}"
        sample.add(("pointer", site), Check.HOOKS, what, guest.describe(site))


def _check_constants(guest: Guest, code: Code, pointers: Pointers, sample: Sample) -> None:
    """Pointers to constants may change to other constants (a name, a table), but not to memory anybody can write."""
    values = _values(guest, pointers)
    sample.examined += len(values)
    changed = np.flatnonzero(values != pointers.targets + np.uint64(guest.slide))
    allowed = code.are_data(values[changed]) | (values[changed] == 0)
    for row in changed[~allowed].tolist():
        site, value = int(pointers.sites[row]) + guest.slide, int(values[row])
        linked = guest.profile.symbols.describe(int(pointers.targets[row])).removesuffix("+0x0")
        what = f"a pointer to the constant {linked} was changed to {code.describe(value)}"
        sample.add(("constant", site), Check.HOOKS, what, guest.describe(site))
