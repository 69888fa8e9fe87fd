# SPDX-License-Identifier: GPL-2.0-or-later
"""When the supervisor starts the agent again."""

from hypothesis import given
from hypothesis import strategies as st

from vinci.node.__main__ import MAX_RESTART_SECONDS, seconds_to_restart

KILLED, EXITED_3, CRASHED = 9, 3 << 8, 1 << 8


def test_an_agent_that_ended_by_itself_is_not_started_again() -> None:
    assert seconds_to_restart(0, 1, was_up=True) is None


def test_an_agent_that_cannot_start_is_reported_at_once() -> None:
    assert seconds_to_restart(EXITED_3, 1, was_up=False) is None


@given(st.sampled_from((KILLED, EXITED_3, CRASHED)), st.integers(1, 10_000))
def test_vms_that_run_are_never_left_without_an_agent(status: int, failures: int) -> None:
    pause = seconds_to_restart(status, failures, was_up=True)
    assert pause is not None
    assert 0 < pause <= MAX_RESTART_SECONDS
