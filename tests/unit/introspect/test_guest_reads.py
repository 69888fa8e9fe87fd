# SPDX-License-Identifier: GPL-2.0-or-later
"""Large reads take all pages at once, and are the same as small ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import BASE, SIZE, Types, guest

from vinci.introspect.guest import Budget, OverBudget
from vinci.introspect.memory import Unreadable, distinct
from vinci.introspect.structs import StructReader


def test_a_large_read_is_what_small_ones_read() -> None:
    seen, ram = guest()
    for at in range(0, SIZE // 2, 8):
        ram[at : at + 8] = (at * 2654435761 & (1 << 64) - 1).to_bytes(8, "little")
    for start, size in ((0, 1 << 20), (100, 300_000), (4095, 32_768), (4096, 8 * 4096)):
        pieces = b"".join(seen.read(BASE + start + at, min(999, size - at)) for at in range(0, size, 999))
        assert seen.read(BASE + start, size) == pieces == bytes(ram[start : start + size])


def test_a_large_read_ends_at_what_is_not_mapped_and_at_the_budget() -> None:
    seen, _ = guest()
    with pytest.raises(Unreadable):
        seen.read(BASE + SIZE - 40_000, 80_000)
    with pytest.raises(OverBudget):
        seen.read(BASE, 1 << 60)
    seen.begin(budget=Budget(bytes=100_000))
    with pytest.raises(OverBudget):
        seen.read(BASE, 200_000)


FIELDS = {"a": (0, 8), "b": (4, 4), "c": (8, 2), "d": (16, 16), "e": (32, 1), "f": (40, 8)}  # a and b share bytes


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=6, unique=True), st.binary(min_size=48, max_size=48)
)
def test_fields_in_any_order_are_what_each_gives_alone(names: list[str], content: bytes) -> None:
    types = Types()
    types.struct("thing", 48, **FIELDS)
    seen, ram = guest(types)
    ram[:48] = content
    expected = []
    for offset, size in map(FIELDS.__getitem__, names):
        part = content[offset : offset + size]
        expected.append(part if size == 16 else int.from_bytes(part, "little"))
    reader = StructReader(seen.layout, "thing", *names)
    assert list(reader.read(seen, BASE)) == expected
    if "d" in names:
        with pytest.raises(TypeError):
            reader.words(seen, BASE)
    else:
        assert list(reader.words(seen, BASE)) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5)))
def test_distinct_values_are_those_of_a_set(values: list[int]) -> None:
    assert distinct(np.array(values, np.uint64)).tolist() == sorted(set(values))
