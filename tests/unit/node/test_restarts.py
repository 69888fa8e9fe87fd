# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that ends at once at each start does not eat the node; one that ran well is started again at once."""

from vinci.node.restarts import MAX_DELAY_SECONDS, SOON_SECONDS, Restarts


def test_a_vm_that_ran_well_is_started_again_at_once() -> None:
    restarts, now = Restarts(), 0.0
    for _ in range(20):
        restarts.started("a", now)
        now += SOON_SECONDS + 1
        assert restarts.ended("a", now) == 0
        assert restarts.wait("a", now) == 0


def test_a_vm_that_ends_soon_waits_ever_longer_up_to_a_bound() -> None:
    restarts, now, delays = Restarts(), 0.0, []
    for _ in range(12):
        now += restarts.wait("a", now)
        restarts.started("a", now)
        now += 1
        delays.append(restarts.ended("a", now))
    assert delays[:2] == [0, 0]
    assert delays == sorted(delays)
    assert 0 < delays[2] < delays[-1] == MAX_DELAY_SECONDS
    assert restarts.wait("another", now) == 0


def test_an_administrators_up_waits_for_nothing() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.started("a", 0.0)
        restarts.ended("a", 1.0)
    assert restarts.wait("a", 1.0) > 0
    restarts.forgive()
    assert restarts.wait("a", 1.0) == 0
