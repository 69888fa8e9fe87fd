# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks that are on no list because they are just made or just ended, and those that only say so."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from synthetic import BASE, Types, guest, put

from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.files import GuestFile
from vinci.introspect.findings import Severity
from vinci.introspect.guest import Guest
from vinci.introspect.passing import SECONDS, Passing
from vinci.introspect.processes import SAME_PLACE_LOOKS, _check_program, _compare, _Views
from vinci.introspect.sampling import Sample
from vinci.introspect.tasks import EXIT_DEAD, TASK_NEW, Task, TaskReader, idle

LISTED, HIDDEN, IDLE = BASE + 0x1000, BASE + 0x2000, BASE + 0x3000
ALIVE = Task(HIDDEN, 0, BASE, 1, 0, 0, 0, 0, 0, 7, 7, 77, 0, 0, b"evil\0")
UNBORN = ALIVE._replace(state=TASK_NEW)
DEAD = ALIVE._replace(stack=0)
LEAVING = ALIVE._replace(exit_state=EXIT_DEAD, on_cpu=1)
COPIED = ALIVE._replace(canary=78)  # as its parent has it, which is on the list
UNNAMED = ALIVE._replace(pid=4)  # still its parent's


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def hidden(task: Callable[[int], Task], looks: int, step: float = 1.0) -> list[bool]:
    """Whether each of several looks, some seconds apart, names a task that is in memory only."""
    clock = Clock()
    passing, said = Passing(clock), []
    seen = cast(Guest, SimpleNamespace(passing=passing, symbol=lambda name: 0))
    views = _Views({LISTED}, {LISTED}, {LISTED, HIDDEN}, set())
    for look in range(looks):
        passing.begin()
        tasks = {LISTED: ALIVE._replace(address=LISTED, canary=COPIED.canary, pid=UNNAMED.pid), HIDDEN: task(look)}
        sample = Sample()
        _compare(sample, seen, views, cast(TaskReader, SimpleNamespace(read=tasks.__getitem__)))
        said.append(sample.tampered)
        clock.now += step
    return said


def test_a_living_task_on_no_list_is_hidden() -> None:
    assert hidden(lambda _: ALIVE, 1) == [True]


@pytest.mark.parametrize("task", [UNBORN, DEAD, LEAVING, COPIED, UNNAMED])
def test_a_task_that_is_said_to_be_just_made_or_ended_may_be_so_for_a_moment(task: Task) -> None:
    assert hidden(lambda _: task, 6, SECONDS / 4) == [False] * 5 + [True]


def test_another_canary_at_each_look_does_not_hide_a_task_for_ever() -> None:
    said = hidden(lambda look: DEAD._replace(canary=look), SAME_PLACE_LOOKS)
    assert said == [False] * (SAME_PLACE_LOOKS - 1) + [True]


@pytest.mark.parametrize(
    ("programs", "severity"), [(None, Severity.NOTE), (frozenset({"/usr/bin/x"}), Severity.TAMPERED)]
)
def test_a_program_from_a_share_is_shown_where_users_are_and_named_elsewhere(
    programs: frozenset[str] | None, severity: Severity
) -> None:
    sample = Sample()
    _check_program(
        sample, ALIVE, GuestFile("nfs4", "/usr/bin/x"), CertifiedFiles({}, frozenset({"/usr/bin/x"})), programs
    )
    ((found,),) = sample.findings.values()
    assert (found.what, found.severity) == ("a program from a share", severity)


def processors(number: int) -> Any:
    return tuple(SimpleNamespace(number=n) for n in range(number))


@pytest.mark.parametrize(("count", "space", "passed"), [(1, 0, False), (2, 0, True), (2, BASE, False)])
def test_a_processor_has_one_idle_task_without_memory(count: int, space: int, passed: bool) -> None:
    types = Types()
    types.struct("rq", 8, idle=(0, 8))
    types.struct("task_struct", 8, mm=(0, 8))
    seen, ram = guest(types)
    put(ram, BASE, 0)
    put(ram, BASE + 8, 64)  # nr_cpu_ids
    put(ram, BASE + 16, IDLE)  # the second processor's
    put(ram, IDLE, space)
    at = {"nr_cpu_ids": BASE + 8, "init_task": LISTED}
    told: Any = SimpleNamespace(
        processors=processors(count),
        symbol=at.__getitem__,
        layout=seen.layout,
        u32=seen.u32,
        u64=seen.u64,
        per_cpu=lambda name, cpu: BASE + 16,
    )
    assert idle(told) == {LISTED} | ({IDLE} if passed else set())
