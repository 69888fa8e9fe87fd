# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a pointer may lead, against a search one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import guest

from vinci.introspect.code import Code, ModuleSpan
from vinci.introspect.symbols import Symbols

TEXT, DATA, RODATA = 0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8300_0000, 0xFFFF_FFFF_8200_0000
SLIDE = 0x1200_0000
FUNCTIONS = (TEXT, TEXT + 0x40, TEXT + 0x100)
NAMED = {
    "_stext": TEXT,
    "first": TEXT + 0x40,
    "second": TEXT + 0x100,
    "_etext": TEXT + 0x1000,
    "__start_rodata": RODATA,
    "__end_rodata": RODATA + 0x1000,
    "_sdata": DATA,
    "_edata": DATA + 0x2000,
}
MODULES = (
    ModuleSpan(
        "one", (0xFFFF_FFFF_C000_0000, 0xFFFF_FFFF_C000_1000), (0xFFFF_FFFF_C000_1000, 0xFFFF_FFFF_C000_3000), (0, 16)
    ),
    ModuleSpan(
        "two", (0xFFFF_FFFF_C010_0000, 0xFFFF_FFFF_C010_1000), (0xFFFF_FFFF_C010_1000, 0xFFFF_FFFF_C010_2000), ()
    ),
)


def code() -> Code:
    seen, _ = guest()
    pairs = sorted((address, name) for name, address in NAMED.items())
    symbols = Symbols(np.array([a for a, _ in pairs], np.uint64), "\n".join(n for _, n in pairs).encode())
    return Code(replace(seen, profile=replace(seen.profile, symbols=symbols), slide=SLIDE), MODULES)


near = st.sampled_from(
    [address + SLIDE for address in NAMED.values()]
    + [edge for module in MODULES for edge in (*module.text, *module.data)]
    + [0, 1 << 63, (1 << 64) - 1]
)
addresses = st.lists(
    st.one_of(
        st.builds(lambda at, by: (at + by) % (1 << 64), near, st.integers(-32, 32)), st.integers(0, (1 << 64) - 1)
    ),
    max_size=20,
)


@settings(max_examples=100, deadline=None)
@given(addresses)
def test_functions_and_data_are_what_a_search_one_by_one_finds(drawn: list[int]) -> None:
    known = {address + SLIDE for address in FUNCTIONS}
    known |= {module.text[0] + offset for module in MODULES for offset in module.functions}
    spans = [(RODATA + SLIDE, RODATA + SLIDE + 0x1000), (DATA + SLIDE, DATA + SLIDE + 0x2000)]
    spans += [module.data for module in MODULES]
    certified = code()
    array = np.array(drawn, np.uint64)
    assert certified.are_functions(array).tolist() == [address in known for address in drawn]
    inside = [any(start <= address < end for start, end in spans) for address in drawn]
    assert certified.are_data(array).tolist() == inside
    assert [certified.is_data(address) for address in drawn] == inside
    assert [certified.is_function(address) for address in drawn] == [address in known for address in drawn]
