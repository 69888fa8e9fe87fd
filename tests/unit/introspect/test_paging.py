# SPDX-License-Identifier: GPL-2.0-or-later
"""Page tables that the test writes: random ones against a walk address by address, hostile ones against the bounds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vinci.introspect.memory import GuestMemory, Region, Unreadable
from vinci.introspect.paging import (
    LARGE,
    NO_EXECUTE,
    PRESENT,
    USER,
    WRITABLE,
    AddressSpace,
    TooManyMappings,
    mappings,
    translate,
)

PAGES = 16
HOLE = 0x4000_0000
TOP = 1 << 64


def memory_of(entries: dict[tuple[int, int], int]) -> GuestMemory:
    """RAM of 16 pages, the last 4 above a hole; `entries` by page and index."""
    ram = bytearray(PAGES * 4096)
    for (page, index), entry in entries.items():
        struct.pack_into("<Q", ram, page * 4096 + index * 8, entry)
    return GuestMemory(ram, (Region(0, 12 * 4096, 0), Region(HOLE, 4 * 4096, 12 * 4096)))


flags = st.builds(
    lambda *bits: sum(bits),
    st.sampled_from((PRESENT, PRESENT, PRESENT, 0)),
    *(st.sampled_from((0, bit)) for bit in (WRITABLE, USER, LARGE, NO_EXECUTE)),
)
frames = st.sampled_from([page * 4096 for page in range(12)] + [HOLE + page * 4096 for page in range(4)] + [HOLE * 2])
tables = st.dictionaries(
    st.tuples(st.integers(0, 15), st.sampled_from((0, 1, 255, 256, 511))),
    st.builds(int.__or__, frames, flags),
    max_size=40,
)


def naive(memory: GuestMemory, space: AddressSpace) -> dict[int, tuple[int, int, bool, bool, bool]]:
    """Every page by a recursive walk straight from the manual."""
    found = {}

    def walk(table: int, level: int, base: int, writable: bool, user: bool, executable: bool) -> None:
        for index in range(512):
            try:
                entry = memory.u64(table + index * 8)
            except Unreadable:
                return
            if not entry & 1:
                continue
            at = space.canonical(base + (index << (12 + 9 * (level - 1))))
            rights = writable and bool(entry & 2), user and bool(entry & 4), executable and not entry >> 63
            size = 1 << (12 + 9 * (level - 1))
            frame = entry & 0x000F_FFFF_FFFF_F000
            if level == 1 or (level <= 3 and entry & LARGE):
                found[at] = (frame & -size, size, *rights)
            else:
                walk(frame, level - 1, at, *rights)

    walk(space.root, space.levels, 0, True, True, True)
    return found


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from((4, 5)), st.booleans(), st.booleans())
def test_a_listing_is_what_a_walk_address_by_address_finds(
    entries: dict[tuple[int, int], int], levels: int, executable_only: bool, user_only: bool
) -> None:
    # page n holds tables of level 5 - n // 3 only, so that walks end
    tree = {}
    for (page, index), entry in entries.items():
        level = max(1, levels - page // 3)
        child = (page // 3 + 1) * 3 + (entry >> 12) % 3
        target = child * 4096 if child < 12 else HOLE + (child - 12) * 4096
        is_leaf = level == 1 or entry & LARGE
        tree[page, index] = entry if is_leaf or child >= PAGES else (entry & ~0x000F_FFFF_FFFF_F000) | target
    memory, space = memory_of(tree), AddressSpace(0, levels)
    expected = naive(memory, space)
    middle = 1 << (11 + 9 * levels)
    options = {"executable_only": executable_only, "user_only": user_only}
    seen = {}
    for start, end in ((0, middle), (TOP - middle, TOP)):
        rows = mappings(memory, space, start, end, **options)
        assert sorted(rows.virtual.tolist()) == rows.virtual.tolist()
        columns = (rows.physical, rows.size, rows.writable, rows.user, rows.executable)
        seen |= dict(zip(rows.virtual.tolist(), zip(*(c.tolist() for c in columns), strict=True), strict=True))
    assert seen == {
        at: page for at, page in expected.items() if (page[4] or not executable_only) and (page[3] or not user_only)
    }
    for address, (physical, size, writable, user, executable) in list(expected.items())[:20]:
        found = translate(memory, space, address + 0x123)
        assert found.physical == physical + 0x123
        assert (found.page_size, found.writable, found.user, found.executable) == (size, writable, user, executable)


def test_only_the_range_asked_for_is_listed() -> None:
    memory = memory_of({(0, 511): 0x1003, (1, 511): 0x2003, (2, 511): 0x3003, **{(3, n): 0x4003 for n in range(512)}})
    rows = mappings(memory, AddressSpace(0, 4), TOP - 0x5000, TOP - 0x2000)
    assert rows.virtual.tolist() == [TOP - 0x5000, TOP - 0x4000, TOP - 0x3000]
    assert mappings(memory, AddressSpace(0, 4), TOP - 0x1000, TOP).virtual.tolist() == [TOP - 0x1000]


@pytest.mark.parametrize("levels", [4, 5])
def test_a_table_full_of_itself_is_given_up(levels: int) -> None:
    memory = memory_of({(0, index): 0x3 for index in range(512)})
    with pytest.raises(TooManyMappings):
        mappings(memory, AddressSpace(0, levels), TOP - (1 << 47), TOP)


def test_a_table_that_maps_everything_onto_one_page_is_given_up() -> None:
    entries = {(table, index): (table + 1) * 4096 + 3 for table in range(4) for index in range(512)}
    with pytest.raises(TooManyMappings):
        mappings(memory_of(entries), AddressSpace(0, 4), 0, 1 << 47)


def test_more_pages_than_any_guest_has_are_given_up() -> None:
    """Few tables suffice: each entry of the lowest one is a page."""
    memory = memory_of({(0, 511): 0x1003, (1, 511): 0x2003, (2, 511): 0x3003, **{(3, n): 0x4003 for n in range(512)}})
    assert len(mappings(memory, AddressSpace(0, 4), TOP - (1 << 47), TOP, max_mappings=512)) == 512
    with pytest.raises(TooManyMappings):
        mappings(memory, AddressSpace(0, 4), TOP - (1 << 47), TOP, max_mappings=511)


def test_a_table_outside_ram_is_counted_and_passed_over() -> None:
    memory = memory_of({(0, 256): 0x1003, (0, 300): HOLE * 3 + 3, (1, 0): HOLE - 4096 + 3})
    rows = mappings(memory, AddressSpace(0, 4), TOP - (1 << 47), TOP)
    assert (len(rows), rows.lost) == (0, 2)
    with pytest.raises(Unreadable):
        mappings(memory, AddressSpace(HOLE * 3, 4), 0, 1 << 47)


@pytest.mark.parametrize("address", [0x0000_8000_0000_0000, 0x1234_0000_0000_0000, 0x1000])
def test_what_is_not_canonical_or_not_mapped_is_unreadable(address: int) -> None:
    with pytest.raises(Unreadable):
        translate(memory_of({}), AddressSpace(0, 4), address)
