# SPDX-License-Identifier: GPL-2.0-or-later
"""Every pointer to a function that a certified module was linked with in its writable data, still as it was linked."""

from __future__ import annotations

import numpy as np

from vinci.introspect.code import Code
from vinci.introspect.findings import Check
from vinci.introspect.guest import Guest
from vinci.introspect.hooks.trusted import HookTables
from vinci.introspect.sampling import Sample


def look(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """Compare the pointers of all certified modules with their files'. Raises Unreadable."""
    for module in code.modules:
        pointers = trusted.module(module.name)
        if not len(pointers.sites):
            continue
        base = module.text[0]
        first, last = pointers.span
        words = np.frombuffer(guest.read(base + first, last - first), np.uint64)
        values = words[pointers.rows]
        expected = pointers.expected(base, guest.slide)
        sample.examined += len(values)
        for row in np.flatnonzero(values != expected).tolist():
            site, value, linked = base + int(pointers.sites[row]), int(values[row]), int(expected[row])
            what = f"a pointer to the function at {code.describe(linked)} was changed to {code.describe(value)}"
            sample.add(("module pointer", module.name, site - base), Check.HOOKS, what, code.describe(site))
