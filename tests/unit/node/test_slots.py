# SPDX-License-Identifier: GPL-2.0-or-later
"""No user, and not all users together, can take the whole agent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vinci.node.slots import Slots


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_nobody_has_more_than_his_share_and_root_always_gets_in(steps: list[tuple[int, bool]]) -> None:
    slots, held = Slots("requests", 3, 7), dict.fromkeys(range(6), 0)
    for uid, takes in steps:
        if takes and slots.refusal(uid) is None:
            slots.take(uid)
            held[uid] += 1
        elif not takes and held[uid]:
            slots.give_back(uid)
            held[uid] -= 1
        users = [held[user] for user in range(1, 6)]
        assert max(users) <= 3
        assert sum(users) <= 7
        assert slots.refusal(0) is None
        assert all((slots.refusal(user) is None) == (held[user] < 3 and sum(users) < 7) for user in range(1, 6))
