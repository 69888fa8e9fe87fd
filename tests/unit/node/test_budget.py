# SPDX-License-Identifier: GPL-2.0-or-later
"""A source that floods the audit fills its own share of it and is told of, and hides nobody else's records."""

from hypothesis import given
from hypothesis import strategies as st

from vinci.node.budget import BURST, MAX_SOURCES, REFILL, Budget

_TIMES = st.lists(st.floats(0, 50), max_size=200)


def test_one_source_does_not_use_up_the_others_budget() -> None:
    budget = Budget()
    assert [budget.admit("noisy", 0.0) for _ in range(BURST)] == [0] * BURST
    assert budget.admit("noisy", 0.0) is None
    assert budget.admit("quiet", 0.0) == 0


def test_what_was_left_out_is_told_once() -> None:
    budget = Budget(burst=1, refill=1)
    assert [budget.admit("a", 0.0) for _ in range(4)] == [0, None, None, None]
    assert budget.admit("a", 1.0) == 3
    assert budget.admit("a", 2.0) == 0


def test_a_flood_of_sources_costs_bounded_memory() -> None:
    budget = Budget()
    for number in range(3 * MAX_SOURCES):
        budget.admit(number, 0.0)
    assert len(budget._buckets) <= MAX_SOURCES


def test_a_flood_of_sources_gets_no_more_than_a_bounded_number_of_sources_would() -> None:
    budget = Budget(burst=3, refill=1, max_sources=10)
    assert sum(budget.admit(number, 0.0) is not None for number in range(1000) for _ in range(5)) == 9 * 3 + 3


def test_sources_that_are_quiet_again_make_room() -> None:
    budget = Budget(burst=3, refill=1, max_sources=3)
    for source in ("a", "a", "b", "c", "d"):
        budget.admit(source, 0.0)
    assert [budget.admit("e", 10.0) for _ in range(4)] == [0, 0, 0, None]
    assert set(budget._buckets) == {"e"}


@given(_TIMES)
def test_never_more_than_burst_and_refill_and_each_is_counted(steps: list[float]) -> None:
    budget, now, admitted, told = Budget(), 0.0, 0, 0
    for step in steps:
        now += step / 100
        left_out = budget.admit("a", now)
        if left_out is not None:
            admitted += 1
            told += left_out
    assert admitted <= BURST + now * REFILL + 1
    assert admitted + told + budget._buckets["a"].left_out == len(steps) if steps else not admitted
