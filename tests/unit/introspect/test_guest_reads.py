# SPDX-License-Identifier: GPL-2.0-or-later
"""Large reads take all pages at once, and are the same as small ones."""

from __future__ import annotations

import pytest
from synthetic import BASE, SIZE, guest

from vinci.introspect.guest import Budget, OverBudget
from vinci.introspect.memory import Unreadable


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
