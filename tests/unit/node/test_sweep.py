# SPDX-License-Identifier: GPL-2.0-or-later
"""What the sweep concludes of a VM: trusted, compromised, unchecked, unreachable; the checker works as it should."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_rig import IMAGES, STARTED, needs_root, rig

from vinci.introspect.findings import Verdict
from vinci.node.introspection import sweep
from vinci.node.introspection.given import Start
from vinci.plan.types import VmKind

pytestmark = needs_root


def test_clean_vms_become_trusted_once_and_a_restart_is_no_finding() -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until_both(Verdict.TRUSTED)
            it.machine.started["a"] = 7
            await it.until(lambda: it.changes.count(("a", Verdict.TRUSTED)) == 2)
            assert not it.failures
            assert sorted(it.changes) == [("a", Verdict.TRUSTED)] * 2 + [("b", Verdict.TRUSTED)]
            assert len(it.starts) == 1

    asyncio.run(work())


def test_a_tampered_vm_is_compromised_and_stays_so_until_it_is_clean_and_released() -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)
            it.ram[:4] = b"evil"
            it.machine.started = {"a": 5}  # the checker of this test reads the memory once a life
            await it.until(lambda: it.verdict("a") is Verdict.COMPROMISED)
            assert it.incidents == {"a"}
            with pytest.raises(ValueError, match="releasable"):
                it.sweep.release("a")
            it.ram[:4] = b"good"
            it.machine.started = {"a": 6}
            await it.until(lambda: bool((state := it.sweep.state("a")) and state.releasable))
            assert it.verdict("a") is Verdict.COMPROMISED
            it.sweep.release("a")
            assert it.verdict("a") is Verdict.TRUSTED

    asyncio.run(work())


def test_what_rests_on_registers_counts_only_when_new_ones_show_it_again() -> None:
    async def work() -> None:
        async with rig("moved") as it:
            await it.until_both(Verdict.TRUSTED)
            assert sorted(it.changes) == [("a", Verdict.TRUSTED), ("b", Verdict.TRUSTED)]
            assert not it.incidents

    asyncio.run(work())


def test_what_a_kernel_was_in_the_middle_of_is_no_finding() -> None:
    """All samples of a look may have seen the same moment: it counts when the VM has run and a further look agrees."""

    async def work() -> None:
        async with rig("busy") as it:
            await it.until_both(Verdict.TRUSTED)
            assert not it.incidents

    asyncio.run(work())


def test_what_is_found_in_a_vm_that_does_not_run_counts_when_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "STILL_SECONDS", 0.2)

    async def work() -> None:
        async with rig() as it:
            it.ram[:4] = b"evil"
            it.machine.stands_still = True
            await it.until(lambda: bool((state := it.sweep.state("a")) and "did not run" in state.reason))
            assert it.verdict("a") is Verdict.UNCHECKED
            assert not it.incidents
            it.machine.stands_still = False
            await it.until(lambda: it.verdict("a") is Verdict.COMPROMISED)

    asyncio.run(work())


def test_a_vm_of_other_images_is_unchecked_until_it_was_replaced() -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until_both(Verdict.TRUSTED)
            it.ram[:4] = b"evil"  # what the kernel of other images looks like to this checker
            it.images = "newer"
            await it.until_both(Verdict.UNCHECKED)
            state = it.sweep.state("a")
            assert state is not None
            assert "replaced" in state.reason
            assert len(it.starts) == 2
            it.ram[:4] = b"good"
            it.machine.started["a"], it.given["a"] = 7, replace(STARTED, images="newer")
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)
            assert it.verdict("b") is Verdict.UNCHECKED
            assert not it.failures
            assert not it.incidents

    asyncio.run(work())


def test_a_vm_of_which_nothing_is_known_is_unchecked() -> None:
    async def work() -> None:
        async with rig() as it:
            del it.given["a"]
            await it.until(lambda: it.verdict("b") is Verdict.TRUSTED)
            assert "not known" in (await it.sweep.look_now("a")).reason
            assert it.verdict("a") is Verdict.UNCHECKED

    asyncio.run(work())


def test_a_file_server_is_not_trusted_without_a_known_policy() -> None:
    async def work() -> None:
        async with rig(kind=VmKind.FS) as it:
            it.given["b"] = replace(STARTED, policies=(b"policy",))
            await it.until(lambda: it.verdict("b") is Verdict.TRUSTED)
            assert "policy" in (await it.sweep.look_now("a")).reason
            assert it.verdict("a") is Verdict.UNCHECKED
            it.ram[:4] = b"evil"
            it.machine.started["a"] = 9
            await it.until(lambda: it.verdict("a") is Verdict.COMPROMISED)

    asyncio.run(work())


def test_policies_that_no_request_holds_leave_a_vm_unchecked_and_the_checker_alive() -> None:
    async def work() -> None:
        async with rig() as it:
            it.given["a"] = replace(STARTED, policies=(random.randbytes(1 << 20),))
            await it.until(lambda: it.verdict("b") is Verdict.TRUSTED)
            assert "1.3 MiB of at most 1 MiB" in (await it.sweep.look_now("a")).reason
            assert it.verdict("a") is Verdict.UNCHECKED
            assert not it.failures

    asyncio.run(work())


def test_a_vm_whose_processors_cannot_be_read_is_unreachable() -> None:
    async def work() -> None:
        async with rig() as it:
            it.machine.mute = {"a"}
            await it.until(lambda: it.verdict("b") is Verdict.TRUSTED)
            await it.until(lambda: it.verdict("a") is Verdict.UNREACHABLE)
            it.machine.mute = set()
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)

    asyncio.run(work())


def test_a_vm_that_ended_is_no_longer_known_and_cannot_be_looked_at() -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)
            del it.machine.started["a"]
            await it.until(lambda: it.verdict("a") is None)
            assert (await it.sweep.look_now("a")).verdict is Verdict.UNREACHABLE

    asyncio.run(work())


def test_a_vm_that_boots_is_not_looked_at_yet() -> None:
    async def work() -> None:
        async with rig(given=Start(IMAGES)) as it:
            ticks = int(float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK"))
            it.machine.started = {"a": ticks}
            await it.until(lambda: it.verdict("a") is Verdict.UNCHECKED)
            assert "not come up" in (await it.sweep.look_now("a")).reason

    asyncio.run(work())


def test_a_very_slow_boot_is_no_finding_and_tampering_after_it_is() -> None:
    async def work() -> None:
        async with rig(given=Start(IMAGES)) as it:
            it.ram[:4] = b"evil"
            ticks = int((float(Path("/proc/uptime").read_text().split()[0]) - 121) * os.sysconf("SC_CLK_TCK"))
            it.machine.started = {"a": ticks}
            look = await it.sweep.look_now("a")
            assert look.verdict is it.verdict("a") is Verdict.UNCHECKED
            assert "did not come up" in look.reason
            assert look.results[0].findings  # shown all the same
            assert not it.incidents
            it.given["a"] = STARTED  # its channel answered once, before an agent that was killed
            await it.until(lambda: it.verdict("a") is Verdict.COMPROMISED)

    asyncio.run(work())
