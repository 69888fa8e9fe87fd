# SPDX-License-Identifier: GPL-2.0-or-later
"""The sweep and checker processes that misbehave in every way: they fail a VM's trust, and never another VM's."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from sweep_rig import IMPATIENT, needs_root, rig

from vinci.introspect.findings import Verdict
from vinci.introspect.protocol import Answer, Request
from vinci.node.introspection.checker import Checker, CheckerError

pytestmark = needs_root


@pytest.mark.parametrize("mode", ["dies", "hangs", "babbles", "lies"])
def test_a_checker_that_fails_at_one_vm_is_replaced_and_the_other_vm_is_still_watched(mode: str) -> None:
    async def work() -> None:
        async with rig(mode) as it:
            await it.until(lambda: len(it.failures) >= 2)
            assert it.verdict("b") is Verdict.UNCHECKED
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)
            assert ("b", Verdict.TRUSTED) not in it.changes
            it.mode = "works"
            await it.sweep.renew_checker()
            await it.until(lambda: it.verdict("b") is Verdict.TRUSTED)
            assert not Path(f"/proc/{it.starts[0].pid}").exists()

    asyncio.run(work())


def test_a_hanging_checker_does_not_keep_vms_trusted() -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until_both(Verdict.TRUSTED)
            it.sweep.settings = IMPATIENT
            os.kill(it.starts[0].pid, 19)
            await it.until_both(Verdict.UNCHECKED)
            assert not it.failures
            os.kill(it.starts[0].pid, 18)
            await it.until_both(Verdict.TRUSTED)

    asyncio.run(work())


def test_without_the_task_that_tells_of_it_a_vm_does_not_stay_trusted_either() -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until_both(Verdict.TRUSTED)
            it.sweep.settings = IMPATIENT
            os.kill(it.starts[0].pid, 19)
            for task in asyncio.all_tasks():
                if "_watch_clock" in repr(task.get_coro()):
                    task.cancel()
            await it.until_both(Verdict.UNCHECKED)
            assert ("a", Verdict.UNCHECKED) not in it.changes  # nobody told, and yet
            os.kill(it.starts[0].pid, 18)
            await it.until_both(Verdict.TRUSTED)
            os.kill(it.starts[0].pid, 19)
            await it.until(lambda: ("a", Verdict.UNCHECKED) in it.changes)  # it was started again
            os.kill(it.starts[0].pid, 18)

    asyncio.run(work())


def test_a_vm_at_which_alone_the_checker_ends_again_and_again_is_compromised() -> None:
    async def work() -> None:
        async with rig("dies") as it:
            await it.until(lambda: it.verdict("b") is Verdict.COMPROMISED)
            assert len(it.failures) >= 3
            assert it.incidents == {"b"}
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)

    asyncio.run(work())


def test_a_checker_that_never_works_says_nothing_of_aapp_vm() -> None:
    async def work() -> None:
        async with rig("dies", names="b") as it:
            await it.until(lambda: len(it.failures) >= 4)
            assert it.verdict("b") is Verdict.UNCHECKED
            assert not it.incidents

    asyncio.run(work())


def test_a_checker_that_does_not_come_up_leaves_all_unchecked() -> None:
    async def work() -> None:
        async with rig("never-ready") as it:
            await it.until(lambda: bool(it.failures))
            look = await it.sweep.look_now("a")
            assert look.verdict is Verdict.UNCHECKED
            assert it.verdict("a") is it.verdict("b") is Verdict.UNCHECKED

    asyncio.run(work())


@pytest.mark.parametrize("steps", range(12))
def test_a_look_that_is_cancelled_while_its_answer_comes_does_not_go_on(steps: int) -> None:
    async def work() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        checker = Checker(await asyncio.create_subprocess_exec("sleep", "60"), ours)
        try:
            with theirs:
                look = asyncio.create_task(checker.look(Request("a", "1-2", "APP", "", ()), None, 20))
                for _ in range(9):
                    await asyncio.sleep(0)
                theirs.sendall(Answer("a", "1-2", 1.0, ()).encode())
                for _ in range(steps):
                    await asyncio.sleep(0)
                cancelled = look.cancel()
                await asyncio.wait([look])
                assert look.cancelled() == cancelled
        finally:
            await checker.end()

    asyncio.run(work())


def test_a_checker_cannot_be_asked_without_a_program() -> None:
    async def work() -> None:
        with pytest.raises(CheckerError, match="cannot be started"):
            await Checker.start(["/nonexistent/checker"])

    asyncio.run(work())
