# SPDX-License-Identifier: GPL-2.0-or-later
"""What is recalled from an earlier look is what would be worked out now, whatever the guest changes between."""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import BASE, SIZE, guest, put
from test_paging import PAGES, frames, memory_of, tables

from vinci.introspect import recall
from vinci.introspect.guest import Budget, Guest, OverBudget
from vinci.introspect.lists import list_entries
from vinci.introspect.memory import Implausible, Unreadable
from vinci.introspect.paging import LARGE, PRESENT, AddressSpace, Mappings, mappings
from vinci.introspect.recall import Listings


def rows(pages: Mappings) -> list[list[object]]:
    names = ("virtual", "physical", "size", "writable", "user", "executable")
    return [*(getattr(pages, name).tolist() for name in names), [pages.lost]]


@settings(max_examples=150, deadline=None)
@given(
    tables,
    st.lists(
        st.tuples(st.integers(0, PAGES - 1), st.sampled_from((0, 1, 256)), frames, st.sampled_from((0, 1, 3, 129)))
    ),
    st.booleans(),
)
def test_a_listing_is_that_of_the_tables_of_now(
    entries: dict[tuple[int, int], int], changes: list[tuple[int, int, int, int]], executable_only: bool
) -> None:
    memory, space, listings = memory_of(entries), AddressSpace(0, 4), Listings()

    def outcome(kept: bool) -> object:
        try:
            if kept:
                return rows(listings.listing(memory, space, 0, 1 << 47, executable_only=executable_only))
            return rows(mappings(memory, space, 0, 1 << 47, executable_only=executable_only))
        except Implausible as error:
            return str(error)

    assert outcome(kept=True) == outcome(kept=False)
    for page, index, frame, flags in changes:
        struct.pack_into("<Q", memory.buffer, page * 4096 + index * 8, frame | flags)
        assert outcome(kept=True) == outcome(kept=False)


def test_a_listing_is_kept_while_the_tables_stay_and_cannot_be_written() -> None:
    seen, ram = guest()
    first = seen.mappings(BASE, BASE + SIZE)
    put(ram, BASE + 4096, 1, 2, 3)  # no table
    assert seen.mappings(BASE, BASE + SIZE) is first
    with pytest.raises(ValueError, match="read-only"):
        first.physical[0] = 0
    assert seen.mappings(BASE, BASE + SIZE // 2) is not first


def test_listings_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, _ram = guest()
    for number in range(40):  # where one begins may be the guest's word
        seen.mappings(BASE + 4096 * number, BASE + SIZE)
    assert len(seen._listings._kept) <= recall._MAX_LISTINGS
    monkeypatch.setattr(recall, "_MAX_ALL_ROWS", 3)
    for number in range(4):
        seen.mappings(BASE + 100 * number, BASE + SIZE)
        assert sum(len(kept.pages) for kept in seen._listings._kept.values()) <= 3
    monkeypatch.setattr(recall, "_MAX_ROWS", 1)
    pages = seen.mappings(BASE, BASE + SIZE - 4096)
    assert seen.mappings(BASE, BASE + SIZE - 4096) is not pages


LINKS = (BASE + 64, BASE + 5000, BASE + 2_500_000, BASE + 4090)
"""The last one crosses pages."""


def walk(seen: Guest) -> list[tuple[int, bytes, str]]:
    found = []
    for at in list_entries(seen, BASE, 16):
        name = seen.cstring(at + 16)
        found.append((at, seen.read(at + 16, 7), name))
    return found


def linked(ram: bytearray) -> None:
    ring = (BASE, *LINKS)
    for number, at in enumerate(ring):
        put(ram, at, ring[(number + 1) % len(ring)], ring[number - 1])
        ram[at - BASE + 16 : at - BASE + 32] = f"name-{number}".encode().ljust(16, b"\0")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((BASE, *LINKS)), st.integers(0, 40), st.integers(0, 255)), max_size=4))
def test_a_walk_is_that_over_the_memory_of_now(changes: list[tuple[int, int, int]]) -> None:
    seen, ram = guest()
    linked(ram)

    def outcome(recalled: bool) -> object:
        seen.begin()
        try:
            return seen.recalled("walk", None, lambda: walk(seen)) if recalled else walk(seen)
        except Implausible as error:
            return str(error)

    assert outcome(recalled=True) == outcome(recalled=False)
    for at, into, value in changes:
        ram[at - BASE + into] = value
        assert outcome(recalled=True) == outcome(recalled=False)


def test_a_walk_is_made_again_only_when_something_of_it_changed() -> None:
    seen, ram = guest()
    linked(ram)
    walks: list[int] = []

    def work() -> int:
        walk(seen)
        walks.append(1)
        return len(walks)

    assert [seen.recalled("walk", "key", work) for _ in range(3)] == [1, 1, 1]
    put(ram, BASE + 200_000, 1)  # not on the way
    assert seen.recalled("walk", "key", work) == 1
    assert seen.recalled("walk", "another key", work) == 2
    ram[LINKS[1] - BASE + 16] ^= 1
    assert seen.recalled("walk", "another key", work) == 3


def test_a_page_that_leads_elsewhere_now_counts_as_changed_though_the_bytes_at_its_old_place_stay() -> None:
    seen, ram = guest()
    put(ram, BASE, 1)
    put(ram, BASE + SIZE // 2, 2)
    assert seen.recalled("word", None, lambda: seen.u64(BASE)) == 1
    lower = SIZE - 3 * 4096
    ram[lower : lower + 8] = ram[lower + 8 : lower + 16]  # its large page is the second one's now
    seen.begin()
    assert seen.recalled("word", None, lambda: seen.u64(BASE)) == 2
    ram[lower : lower + 8] = bytes(8)
    seen.begin()
    with pytest.raises(Unreadable):
        seen.recalled("word", None, lambda: seen.u64(BASE))


def test_a_read_that_failed_is_made_again_though_the_work_went_on_without_it() -> None:
    """A guest unmaps the page for one look, and has it back with something else in it."""
    seen, ram = guest()
    put(ram, BASE, 666)
    lower = SIZE - 3 * 4096
    entry, ram[lower : lower + 8] = ram[lower : lower + 8], bytes(8)

    def work() -> int:
        found = seen.u64(BASE + SIZE // 2)
        with suppress(Unreadable):
            found = seen.u64(BASE)
        seen.u64(BASE + SIZE // 2)
        return found

    assert seen.recalled("word", None, work) == 0
    ram[lower : lower + 8] = entry
    seen.begin()
    assert seen.recalled("word", None, work) == 666


def test_work_that_went_on_without_its_budget_is_made_again() -> None:
    seen, ram = guest()
    put(ram, BASE, 666)

    def work() -> list[int]:
        found = []
        with suppress(OverBudget):
            found.append(seen.u64(BASE))
        return found

    seen.begin(budget=Budget(reads=0))
    assert seen.recalled("words", None, work) == []
    seen.begin(budget=Budget())
    assert seen.recalled("words", None, work) == [666]


def test_a_page_that_was_in_two_places_during_one_walk_is_walked_again() -> None:
    """A table of small pages becomes a large page between two reads of one page: a race that the guest may win once."""
    seen, ram = guest()
    region, entry, table = BASE + SIZE, SIZE - 3 * 4096 + 16, 0x100000
    struct.pack_into("<2Q", ram, table, 0x101000 | PRESENT, 0x201000 | PRESENT)
    struct.pack_into("<Q", ram, entry, table | PRESENT)
    put(ram, BASE + 0x101000, 7)  # the decoy
    put(ram, BASE + 0x200000, 7, 2)  # where the kernel will look

    def work() -> tuple[int, ...]:
        found = [seen.u64(region)]
        struct.pack_into("<Q", ram, entry, 0x200000 | PRESENT | LARGE)
        found.append(seen.u64(region + 4096))
        return (*found, seen.u64(region + 8))

    seen.begin()
    assert seen.recalled("walk", None, work)[0] == 7
    put(ram, BASE + 0x200000, 666)
    seen.begin()
    assert seen.recalled("walk", None, lambda: seen.u64(region)) == 666


def test_a_walk_without_an_end_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "_MAX_READS", 100)
    seen, _ram = guest()
    trace = recall.Trace()
    seen._trace = trace
    for number in range(10_000):
        seen.u64(BASE + 8 * number)
    assert len(trace._words) <= 101
    assert not trace.within_bounds


def test_what_the_guest_changed_while_it_was_read_is_never_recalled() -> None:
    """It shows a clean word, and the foul one right after: the digest is of the bytes that the work was given."""
    seen, ram = guest()

    def work() -> int:
        put(ram, BASE, 7)
        found = seen.u64(BASE)
        put(ram, BASE, 666)
        return found

    assert seen.recalled("word", None, work) == 7
    assert seen.recalled("word", None, lambda: seen.u64(BASE)) == 666


@pytest.mark.parametrize(
    "way",
    [
        lambda seen: seen.shared("listing", lambda: 1),
        lambda seen: seen.mappings(BASE, BASE + SIZE),
        lambda seen: seen.image(0xFFFF_FFFF_8100_0000, 8),
        lambda seen: seen.in_place(BASE, 8),
        lambda seen: seen.read(BASE, 1 << 20),
        lambda seen: seen.recalled("inner", None, lambda: seen.u64(BASE + 8)),
    ],
)
def test_work_that_reads_in_a_way_that_is_not_noted_is_made_each_time(way: object) -> None:
    seen, _ram = guest()
    seen.profile.symbols.addresses[0] = 0xFFFF_FFFF_8100_0000
    made: list[int] = []

    def work() -> None:
        seen.u64(BASE)
        way(seen)  # type: ignore[operator]
        made.append(1)

    for _ in range(3):
        seen.recalled("work", None, work)
    assert len(made) == 3


@pytest.mark.parametrize(("bound", "value"), [("_MAX_READS", 10), ("_MAX_BYTES", 80)])
def test_work_that_reads_too_much_is_not_kept(monkeypatch: pytest.MonkeyPatch, bound: str, value: int) -> None:
    monkeypatch.setattr(recall, bound, value)
    seen, _ram = guest()
    for count, kept in ((10, True), (11, False)):
        seen.recalled("reads", count, lambda count=count: [seen.u64(BASE + 8 * n) for n in range(count)])  # type: ignore[misc]
        assert ("reads" in seen._walks) is kept


def test_a_guest_translates_by_the_straight_map_only_what_is_mapped_straight() -> None:
    seen, ram = guest()
    put(ram, BASE + 8192, 5)
    seen.begin()
    seen.learn_straight(BASE, bytes([1, 0, 1]))
    assert [seen.physical(BASE + at) for at in (10, 4096 + 10, 8192 + 10)] == [10, 4106, 8202]
    assert seen.u64(BASE + 8192) == 5
    seen.begin()
    assert seen._straight == (0, b"")
    assert np.array_equal(seen.in_place(BASE + 8192, 8), np.array([5, 0, 0, 0, 0, 0, 0, 0], np.uint8))
