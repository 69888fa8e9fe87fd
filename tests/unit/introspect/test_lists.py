# SPDX-License-Identifier: GPL-2.0-or-later
"""Linked structures that the test writes, right ones and knotted ones."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import BASE, Types, guest, put

from vinci.introspect.lists import Broken, chain, list_entries, xarray_entries
from vinci.introspect.memory import Implausible, Unreadable

NODE = 576
TYPES = Types()
TYPES.struct("xa_node", NODE, shift=(0, 1), offset=(1, 1), slots=(40, 512))
addresses = st.lists(st.integers(1, 2000).map(lambda number: BASE + 16 * number), unique=True, max_size=30)


def tie(ram: bytearray, nodes: list[int]) -> None:
    for before, at, after in zip([nodes[-1], *nodes[:-1]], nodes, [*nodes[1:], nodes[0]], strict=True):
        put(ram, at, after, before)


@settings(max_examples=50, deadline=None)
@given(addresses)
def test_a_list_is_followed_in_its_order(nodes: list[int]) -> None:
    seen, ram = guest()
    tie(ram, [BASE, *nodes])
    assert list(list_entries(seen, BASE, 30)) == nodes


@settings(max_examples=50, deadline=None)
@given(addresses.filter(lambda nodes: len(nodes) > 1), st.data())
def test_a_list_that_turns_back_into_itself_is_broken(nodes: list[int], data: st.DataObject) -> None:
    seen, ram = guest()
    tie(ram, [BASE, *nodes])
    turning = data.draw(st.integers(0, len(nodes) - 1))
    into = data.draw(st.integers(0, turning))
    put(ram, nodes[turning], nodes[into])
    with pytest.raises(Broken):
        list(list_entries(seen, BASE, 30))


def test_a_list_that_leaves_somebody_out_on_one_way_is_broken() -> None:
    """Unlinked from the way forward only: the way back still has him."""
    seen, ram = guest()
    first, hidden, last = (BASE + 16 * number for number in (1, 2, 3))
    tie(ram, [BASE, first, hidden, last])
    put(ram, first, last)
    with pytest.raises(Broken):
        list(list_entries(seen, BASE, 30))


@pytest.mark.parametrize("target", [0, 8, BASE + (1 << 30), 0xFFFF_FFFF_FFFF_FFF8, 0x4141_4141_4141_4141])
def test_a_link_to_nowhere_is_unreadable(target: int) -> None:
    seen, ram = guest()
    put(ram, BASE, target, target)
    with pytest.raises(Unreadable):
        list(list_entries(seen, BASE, 30))


def test_a_list_of_more_than_its_bound_and_an_endless_chain_are_broken() -> None:
    seen, ram = guest()
    tie(ram, [BASE + 16 * number for number in range(12)])
    assert len(list(list_entries(seen, BASE, 11))) == 11
    with pytest.raises(Broken):
        list(list_entries(seen, BASE, 10))
    put(ram, BASE + 64, BASE + 64)
    with pytest.raises(Broken):
        list(chain(seen, BASE + 64, 0, 1000))


def write_xarray(ram: bytearray, entries: dict[int, int], at: list[int]) -> int:
    """An xarray as the kernel builds it; the value of its head."""
    if not entries:
        return 0
    if set(entries) == {0}:
        return entries[0]
    shift = max(0, (max(entries).bit_length() - 1) // 6 * 6)

    def node(part: dict[int, int], shift: int) -> int:
        address = at.pop()
        ram[address - BASE] = shift
        slots = [0] * 64
        for slot in {index >> shift & 63 for index in part}:
            below = {index: entry for index, entry in part.items() if index >> shift & 63 == slot}
            slots[slot] = node(below, shift - 6) if shift else next(iter(below.values()))
        put(ram, address + 40, *slots)
        return address | 2

    return node(entries, shift)


pointers = st.integers(1, 1 << 40).map(lambda number: number << 3 | 1 << 63)
indexes = st.one_of(st.integers(0, 300), st.integers(0, 1 << 22), st.integers(0, (1 << 64) - 1))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(indexes, pointers, max_size=25))
def test_an_xarray_gives_its_entries_in_order(entries: dict[int, int]) -> None:
    seen, ram = guest(TYPES)
    head = write_xarray(ram, entries, [BASE + NODE * number for number in range(600)])
    assert xarray_entries(seen, head, 1000) == sorted(entries.items())


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=NODE * 4, max_size=NODE * 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 63)), max_size=9),
)
def test_a_hostile_xarray_ends(content: bytes, links: list[tuple[int, int]]) -> None:
    seen, ram = guest(TYPES)
    ram[: len(content)] = content
    for node, slot in links:
        put(ram, BASE + NODE * node + 40 + 8 * slot, BASE + NODE * (slot % 4) | 2)
    ram[0] = 60
    with contextlib.suppress(Implausible):
        assert len(xarray_entries(seen, BASE | 2, 500)) <= 500


def test_an_xarray_node_that_is_its_own_child_is_broken() -> None:
    seen, ram = guest(TYPES)
    ram[0] = 6
    put(ram, BASE + 40, *[BASE | 2] * 64)
    with pytest.raises(Broken):
        xarray_entries(seen, BASE | 2, 1000)
