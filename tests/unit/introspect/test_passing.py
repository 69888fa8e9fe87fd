# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be so for a moment and what lasts."""

from __future__ import annotations

from synthetic import guest

from vinci.introspect.passing import SECONDS, Passing


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lasting(*looks: bool, step: float = SECONDS / 2) -> list[bool]:
    """Whether it is said to last, at each of several looks that see it or do not."""
    clock = Clock()
    passing, said = Passing(clock), []
    for seen in looks:
        passing.begin()
        said.append(seen and (passing.lasts("it"), passing.lasts("it"))[0])  # twice: two samples of one look
        clock.now += step
    return said


def test_what_every_look_sees_lasts_after_some_time() -> None:
    assert lasting(*[True] * 5) == [False, False, False, True, True]
    assert lasting(True, True, step=2 * SECONDS) == [False, True]


def test_looks_at_once_after_each_other_are_a_moment() -> None:
    assert not any(lasting(*[True] * 5, step=0.1))


def test_what_was_gone_begins_anew() -> None:
    assert lasting(*[True, True, False] * 3, step=0.9 * SECONDS) == [False] * 9


def test_a_second_sample_is_no_second_look() -> None:
    clock = Clock()
    passing = Passing(clock)
    passing.begin()
    assert not passing.lasts("it")
    clock.now += 2 * SECONDS
    assert not passing.lasts("it")


def test_a_look_begins_with_new_registers_or_a_new_budget() -> None:
    seen, _ = guest()
    clock = Clock()
    seen.passing.clock = clock
    seen.begin((), seen.budget)
    for begin, new in ((lambda: seen.begin(budget=seen.budget), False), (seen.begin, True)):
        seen.passing.lasts("it")
        clock.now += 2 * SECONDS
        begin()
        assert seen.passing.lasts("it") is new
