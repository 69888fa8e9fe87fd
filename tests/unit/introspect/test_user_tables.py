# SPDX-License-Identifier: GPL-2.0-or-later
"""Many address spaces at once against the walk of one, on tables that the test writes; and the vDSO's places."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vinci.introspect.memory import GuestMemory, Region
from vinci.introspect.paging import LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE, AddressSpace, TooManyMappings, mappings
from vinci.introspect.user_tables import executable_user_pages
from vinci.introspect.vdso import VdsoPage

PAGES = 16


def memory_of(entries: dict[tuple[int, int], int]) -> GuestMemory:
    ram = bytearray(PAGES * 4096)
    for (page, index), entry in entries.items():
        struct.pack_into("<Q", ram, page * 4096 + index * 8, entry)
    return GuestMemory(ram, (Region(0, PAGES * 4096, 0),))


flags = st.builds(
    lambda *bits: sum(bits) | PRESENT,
    *(st.sampled_from((0, bit)) for bit in (WRITABLE, LARGE, NO_EXECUTE)),
    st.sampled_from((USER, USER, USER, 0)),
)
# tables of level n only lead to those of level n-1, so that the walk of one space stays small
tables = st.dictionaries(
    st.tuples(st.integers(0, 11), st.sampled_from((0, 1, 255, 511))),
    st.tuples(st.integers(0, 2), flags),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_all_spaces_at_once_give_what_each_gives_alone(drawn: dict[tuple[int, int], tuple[int, int]]) -> None:
    entries = {
        (page, index): (page // 3 + 1) * 3 + child << 12 | bits for (page, index), (child, bits) in drawn.items()
    }
    memory = memory_of(entries)
    roots = [0, 4096, 8192]
    found = executable_user_pages(memory, np.array(roots, np.uint64), 4)
    together = {
        (int(space), virtual, physical, size, writable)
        for space, virtual, physical, size, writable in zip(
            found.space,
            found.virtual.tolist(),
            found.physical.tolist(),
            found.size.tolist(),
            found.writable,
            strict=True,
        )
    }
    for (page, index), entry in entries.items():
        if page < 3:  # page table isolation marks the top entries: that must not hide what is below
            struct.pack_into("<Q", memory.bytes, page * 4096 + index * 8, entry & ~NO_EXECUTE)
    alone = set()
    for number, root in enumerate(roots):
        one = mappings(memory, AddressSpace(root, 4), 0, 1 << 47, executable_only=True, user_only=True)
        rows = zip(one.virtual.tolist(), one.physical.tolist(), one.size.tolist(), one.writable, strict=True)
        alone |= {(number, *row) for row in rows}
    assert together == alone


def test_a_table_that_maps_itself_everywhere_is_too_much() -> None:
    everywhere = {(0, index): PRESENT | USER for index in range(512)}
    with pytest.raises(TooManyMappings):
        executable_user_pages(memory_of(everywhere), np.zeros(1, np.uint64), 4)


def test_many_spaces_whose_tables_map_everything_are_too_much_before_they_are_listed() -> None:
    """One level alone would be 8 million tables."""
    everywhere = {(0, index): PRESENT | USER for index in range(512)}
    tracemalloc.start()
    try:
        with pytest.raises(TooManyMappings):
            executable_user_pages(memory_of(everywhere), np.zeros(64, np.uint64), 4)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


PAGE = VdsoPage(bytes(range(256)) * 16, {100: (bytes(range(100, 103)), b"abc"), 4000: (b"\xa0\xa1", b"xy")})


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from((100, 4000))), st.none() | st.tuples(st.integers(0, 4095), st.integers(0, 255)))
def test_the_vdso_is_explained_by_its_places_and_nothing_else(
    replaced: set[int], change: tuple[int, int] | None
) -> None:
    page = bytearray(PAGE.trusted)
    for at in replaced:
        page[at : at + len(PAGE.places[at][1])] = PAGE.places[at][1]
    assert PAGE.explains(bytes(page))
    if change and page[change[0]] != change[1]:
        page[change[0]] = change[1]
        assert not PAGE.explains(bytes(page))
