# SPDX-License-Identifier: GPL-2.0-or-later
"""When the sweep looks: at times that nobody can foretell, and dear looks leave time to the others."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from sweep_rig import IMAGES, SETTINGS, STARTED, Machine, app_vm, needs_root, rig

from vinci.introspect.findings import Verdict
from vinci.model.infrastructure import Introspection
from vinci.node.introspection.checker import Checker, CheckerError
from vinci.node.introspection.pace import backoff, interval, rest
from vinci.node.introspection.sweep import Events, Sweep

pytestmark = needs_root


def test_a_vm_whose_looks_are_dear_leaves_time_to_the_others() -> None:
    async def work() -> None:
        async with rig("dear") as it:
            await it.until_both(Verdict.TRUSTED)
            it.machine.asked.clear()
            began = asyncio.get_running_loop().time()
            await it.until(lambda: it.machine.asked["b"] == 4)
            # Three whole looks of 0.4 s each and the rest after them lie between, however busy the machine is.
            assert asyncio.get_running_loop().time() - began >= 3 * rest(0.4, 15.3) - 0.1
            assert it.machine.asked["a"] > it.machine.asked["b"]

    asyncio.run(work())


def test_looks_come_at_times_that_nobody_can_foretell_and_are_spread_over_the_period() -> None:
    settings = Introspection()
    chances = [interval(settings, random.random()) for _ in range(1000)]
    assert all(0.9 <= seconds <= 1.1 for seconds in chances)
    assert max(chances) - min(chances) > 0.15
    assert interval(settings.model_copy(update={"jitter_percent": 0}), 0.7) == 1.0

    async def work() -> None:
        many = [f"vm-{number}" for number in range(400)]
        machine = Machine({name: number for number, name in enumerate(many)})
        vms = {name: app_vm(name) for name in many}
        events = Events(lambda *_: None, lambda *_: None, lambda *_: None)
        starting = asyncio.Event()

        async def start() -> Checker:
            starting.set()
            await asyncio.sleep(60)
            raise CheckerError("never comes")

        sweep = Sweep(machine, start, lambda: vms, lambda _: STARTED, lambda: IMAGES, frozenset, events)
        task, began = asyncio.create_task(sweep.run()), asyncio.get_running_loop().time()
        await starting.wait()
        due = [when - began for when in sweep._due.values()]
        quarters = Counter(int(when * 4) for when in due if when < 1.0)
        assert all(50 < quarters[quarter] < 170 for quarter in range(4)), quarters
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(work())


@pytest.mark.parametrize("took", [0.001, 0.02, 0.3, 0.7, 1.2, 2.4, 2.6, 8.0])
def test_dear_looks_leave_most_of_the_time_or_stay_within_what_is_allowed(took: float) -> None:
    allowed = 5.0
    assert took * 4 <= rest(took, allowed) or took <= allowed / 2 <= rest(took, allowed)
    if took <= allowed / 2:
        assert rest(took, allowed) + took <= allowed


def test_first_looks_which_take_long_do_not_keep_known_vms_from_being_looked_at() -> None:
    async def work() -> None:
        async with rig("slow-at-first", names="abcde") as it:
            it.sweep.settings = SETTINGS.model_copy(update={"grace_ms": 1700})
            await it.until(lambda: all(it.verdict(name) is Verdict.TRUSTED for name in "abcde"))
            assert Verdict.UNCHECKED not in [verdict for _, verdict in it.changes]

    asyncio.run(work())


def test_the_wait_after_failures_grows_and_is_bounded() -> None:
    waits = [backoff(failures) for failures in range(30)]
    assert waits == sorted(waits)
    assert waits[0] == 0.0
    assert waits[-1] == 60.0
