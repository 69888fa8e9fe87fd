# SPDX-License-Identifier: GPL-2.0-or-later
"""The sweep with real checker processes that misbehave in every way; the VM is this process, its RAM a mapped file."""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from vinci.introspect.findings import Look, Verdict
from vinci.introspect.protocol import Answer, Request
from vinci.model.infrastructure import Introspection, Response
from vinci.node.introspection.assurance import Assurance
from vinci.node.introspection.checker import Checker, CheckerError
from vinci.node.introspection.given import Start
from vinci.node.introspection.pace import backoff, interval, rest
from vinci.node.introspection.sweep import Events, Sweep
from vinci.plan.types import Vm, VmKind
from vinci.vmm.host import VmmError
from vinci.vmm.instance import Instance

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may open the memory of a VM")

CHECKER = """
import json, os, socket, sys, time
mode, line = sys.argv[1], b""
connection = socket.socket(fileno=int(sys.argv[-1]))
if mode == "never-ready":
    sys.exit(1)
connection.sendall(b'{"checks": ["kernel-place"]}\\n')
ram, asked_before = {}, set()
while True:
    line, files, _, _ = socket.recv_fds(connection, 1 << 20, 1)
    if not line:
        break
    asked = json.loads(line)
    if files and mode == "slow-at-first":
        time.sleep(0.7)
    if files:
        ram[asked["instance"]] = os.pread(files[0], 4, 0)
    found = ram[asked["instance"]]
    finding = {"check": "kernel-place", "what": "hooked", "where": "x", "severity": "tampered"}
    result = {"check": "kernel-place", "examined": 1, "milliseconds": 1.0, "error": None,
              "findings": [] if found == b"good" else [finding]}
    if mode == "moved" and asked["instance"] not in asked_before:
        result["findings"] = [finding]
    asked_before.add(asked["instance"])
    answer = {"vm": asked["vm"], "instance": asked["instance"], "milliseconds": 1.0, "results": [result],
              "unreachable": ""}
    if mode == "dies" and asked["vm"] == "b":
        os._exit(1)
    if mode == "dear" and asked["vm"] == "b":
        time.sleep(0.4)
    if mode == "hangs" and asked["vm"] == "b":
        time.sleep(100)
    if mode == "babbles" and asked["vm"] == "b":
        connection.sendall(b"x" * 10_000_000)
    if mode == "lies" and asked["vm"] == "b":
        answer["results"] = []
    connection.sendall(json.dumps(answer).encode() + b"\\n")
"""
SIZE_MIB = 1
SETTINGS = Introspection(period_ms=100, jitter_percent=20, grace_ms=15_000, look_ms=1500)
IMPATIENT = SETTINGS.model_copy(update={"grace_ms": 700, "look_ms": 600_000})


IMAGES = "images"
STARTED = Start(IMAGES, came_up=True)


def _vm(name: str, kind: VmKind = VmKind.APP) -> Vm:
    return Vm(name, kind, "c", None, SIZE_MIB, 100, (), (), None, None, Response.ALERT)


@dataclass
class Machine:
    """This process, as a VM's QEMU."""

    started: dict[str, int]
    mute: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)

    def instance(self, name: str) -> Instance | None:
        return Instance(os.getpid(), self.started[name]) if name in self.started else None

    def monitor(self, name: str, command: str) -> str:
        self.asked[name] += 1
        if name in self.mute:
            raise VmmError(f"QEMU's monitor of {name} does not answer")
        return f"the answer to {command}"


@dataclass
class Rig:
    """A sweep and what it told."""

    sweep: Sweep
    machine: Machine
    incidents: set[str]
    changes: list[tuple[str, Verdict]]
    failures: list[str]
    starts: list[Checker]
    mode: str
    given: dict[str, Start]
    images: str = IMAGES

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.02)

    def verdict(self, name: str) -> Verdict | None:
        state = self.sweep.state(name)
        return state.verdict if state else None


@pytest.fixture
def ram() -> Iterator[mmap.mmap]:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.truncate(SIZE_MIB << 20)
        with mmap.mmap(file.fileno(), 0) as memory:
            memory[:4] = b"good"
            yield memory


@asynccontextmanager
async def rig(
    mode: str = "works", given: Start = STARTED, names: str = "ab", kind: VmKind = VmKind.APP
) -> AsyncIterator[Rig]:
    """A sweep over VMs of these one-letter names."""
    incidents: set[str] = set()
    changes: list[tuple[str, Verdict]] = []
    failures: list[str] = []
    starts: list[Checker] = []
    machine = Machine({name: number for number, name in enumerate(names)})

    async def start() -> Checker:
        checker = await Checker.start([sys.executable, "-c", CHECKER, made.mode])
        starts.append(checker)
        return checker

    def found(name: str, _look: Look) -> None:
        incidents.add(name)

    def changed(name: str, _before: Assurance, after: Assurance) -> None:
        changes.append((name, after.verdict))

    events = Events(changed, found, failures.append)
    vms = {name: _vm(name, kind) for name in names}
    starts_given = dict.fromkeys(names, given)
    sweep = Sweep(
        machine,
        start,
        lambda: vms,
        lambda name: made.given.get(name),
        lambda: made.images,
        lambda: frozenset(incidents),
        events,
    )
    sweep.settings = SETTINGS
    made = Rig(sweep, machine, incidents, changes, failures, starts, mode, starts_given)
    task = asyncio.create_task(sweep.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _run(work: Awaitable[None]) -> None:
    async def run() -> None:
        await work

    asyncio.run(run())


def test_clean_vms_become_trusted_once_and_a_restart_is_no_finding(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.TRUSTED)
            it.machine.started["a"] = 7
            await it.until(lambda: it.changes.count(("a", Verdict.TRUSTED)) == 2)
            assert not it.failures
            assert sorted(it.changes) == [("a", Verdict.TRUSTED)] * 2 + [("b", Verdict.TRUSTED)]
            assert len(it.starts) == 1

    _run(work())


def test_a_tampered_vm_is_compromised_and_stays_so_until_it_is_clean_and_released(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)
            ram[:4] = b"evil"
            it.machine.started = {"a": 5}  # the checker of this test reads the memory once a life
            await it.until(lambda: it.verdict("a") is Verdict.COMPROMISED)
            assert it.incidents == {"a"}
            with pytest.raises(ValueError, match="releasable"):
                it.sweep.release("a")
            ram[:4] = b"good"
            it.machine.started = {"a": 6}
            await it.until(lambda: bool((state := it.sweep.state("a")) and state.releasable))
            assert it.verdict("a") is Verdict.COMPROMISED
            it.sweep.release("a")
            assert it.verdict("a") is Verdict.TRUSTED

    _run(work())


def test_what_rests_on_registers_counts_only_when_new_ones_show_it_again(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig("moved") as it:
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.TRUSTED)
            assert sorted(it.changes) == [("a", Verdict.TRUSTED), ("b", Verdict.TRUSTED)]
            assert not it.incidents

    _run(work())


@pytest.mark.parametrize("mode", ["dies", "hangs", "babbles", "lies"])
def test_a_checker_that_fails_at_one_vm_is_replaced_and_the_other_vm_is_still_watched(
    ram: mmap.mmap, mode: str
) -> None:
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

    _run(work())


def test_a_hanging_checker_does_not_keep_vms_trusted(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.TRUSTED)
            it.sweep.settings = IMPATIENT
            os.kill(it.starts[0].pid, 19)
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.UNCHECKED)
            assert not it.failures
            os.kill(it.starts[0].pid, 18)
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.TRUSTED)

    _run(work())


def test_without_the_task_that_tells_of_it_a_vm_does_not_stay_trusted_either(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.TRUSTED)
            it.sweep.settings = IMPATIENT
            os.kill(it.starts[0].pid, 19)
            for task in asyncio.all_tasks():
                if "_watch_clock" in repr(task.get_coro()):
                    task.cancel()
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.UNCHECKED)
            assert ("a", Verdict.UNCHECKED) not in it.changes  # nobody told, and yet
            os.kill(it.starts[0].pid, 18)
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.TRUSTED)
            os.kill(it.starts[0].pid, 19)
            await it.until(lambda: ("a", Verdict.UNCHECKED) in it.changes)  # it was started again
            os.kill(it.starts[0].pid, 18)

    _run(work())


def test_a_vm_at_which_alone_the_checker_ends_again_and_again_is_compromised(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig("dies") as it:
            await it.until(lambda: it.verdict("b") is Verdict.COMPROMISED)
            assert len(it.failures) >= 3
            assert it.incidents == {"b"}
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)

    _run(work())


def test_a_checker_that_never_works_says_nothing_of_a_vm(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig("dies", names="b") as it:
            await it.until(lambda: len(it.failures) >= 4)
            assert it.verdict("b") is Verdict.UNCHECKED
            assert not it.incidents

    _run(work())


def test_a_vm_whose_looks_are_dear_leaves_time_to_the_others(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig("dear") as it:
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.TRUSTED)
            it.machine.asked.clear()
            began = asyncio.get_running_loop().time()
            await it.until(lambda: it.machine.asked["b"] == 4)
            # Three whole looks of 0.4 s each and the rest after them lie between, however busy the machine is.
            assert asyncio.get_running_loop().time() - began >= 3 * rest(0.4, 15.3) - 0.1
            assert it.machine.asked["a"] > it.machine.asked["b"]

    _run(work())


def test_a_vm_of_other_images_is_unchecked_until_it_was_replaced(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.TRUSTED)
            ram[:4] = b"evil"  # what the kernel of other images looks like to this checker
            it.images = "newer"
            await it.until(lambda: it.verdict("a") is it.verdict("b") is Verdict.UNCHECKED)
            state = it.sweep.state("a")
            assert state is not None
            assert "replaced" in state.reason
            assert len(it.starts) == 2
            ram[:4] = b"good"
            it.machine.started["a"], it.given["a"] = 7, replace(STARTED, images="newer")
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)
            assert it.verdict("b") is Verdict.UNCHECKED
            assert not it.failures
            assert not it.incidents

    _run(work())


def test_a_vm_of_which_nothing_is_known_is_unchecked(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig() as it:
            del it.given["a"]
            await it.until(lambda: it.verdict("b") is Verdict.TRUSTED)
            assert "not known" in (await it.sweep.look_now("a")).reason
            assert it.verdict("a") is Verdict.UNCHECKED

    _run(work())


def test_a_file_server_is_not_trusted_without_a_known_policy(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig(kind=VmKind.FS) as it:
            it.given["b"] = replace(STARTED, policies=(b"policy",))
            await it.until(lambda: it.verdict("b") is Verdict.TRUSTED)
            assert "policy" in (await it.sweep.look_now("a")).reason
            assert it.verdict("a") is Verdict.UNCHECKED
            ram[:4] = b"evil"
            it.machine.started["a"] = 9
            await it.until(lambda: it.verdict("a") is Verdict.COMPROMISED)

    _run(work())


def test_policies_that_no_request_holds_leave_a_vm_unchecked_and_the_checker_alive(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig() as it:
            it.given["a"] = replace(STARTED, policies=(random.randbytes(1 << 20),))
            await it.until(lambda: it.verdict("b") is Verdict.TRUSTED)
            assert "1.3 MiB of at most 1 MiB" in (await it.sweep.look_now("a")).reason
            assert it.verdict("a") is Verdict.UNCHECKED
            assert not it.failures

    _run(work())


def test_looks_come_at_times_that_nobody_can_foretell_and_are_spread_over_the_period(ram: mmap.mmap) -> None:
    settings = Introspection()
    chances = [interval(settings, random.random()) for _ in range(1000)]
    assert all(0.8 <= seconds <= 1.0 for seconds in chances)
    assert max(chances) - min(chances) > 0.15
    assert interval(settings.model_copy(update={"jitter_percent": 0}), 0.7) == 1.0

    async def work() -> None:
        many = [f"vm-{number}" for number in range(400)]
        machine = Machine({name: number for number, name in enumerate(many)})
        vms = {name: _vm(name) for name in many}
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

    _run(work())


@pytest.mark.parametrize("took", [0.001, 0.02, 0.3, 0.7, 1.2, 2.4, 2.6, 8.0])
def test_dear_looks_leave_most_of_the_time_or_stay_within_what_is_allowed(took: float) -> None:
    allowed = 5.0
    assert took * 4 <= rest(took, allowed) or took <= allowed / 2 <= rest(took, allowed)
    if took <= allowed / 2:
        assert rest(took, allowed) + took <= allowed


def test_first_looks_which_take_long_do_not_keep_known_vms_from_being_looked_at(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig("slow-at-first", names="abcde") as it:
            it.sweep.settings = SETTINGS.model_copy(update={"grace_ms": 1700})
            await it.until(lambda: all(it.verdict(name) is Verdict.TRUSTED for name in "abcde"))
            assert Verdict.UNCHECKED not in [verdict for _, verdict in it.changes]

    _run(work())


def test_a_checker_that_does_not_come_up_leaves_all_unchecked(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig("never-ready") as it:
            await it.until(lambda: bool(it.failures))
            look = await it.sweep.look_now("a")
            assert look.verdict is Verdict.UNCHECKED
            assert it.verdict("a") is it.verdict("b") is Verdict.UNCHECKED

    _run(work())


def test_a_vm_whose_processors_cannot_be_read_is_unreachable(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig() as it:
            it.machine.mute = {"a"}
            await it.until(lambda: it.verdict("b") is Verdict.TRUSTED)
            await it.until(lambda: it.verdict("a") is Verdict.UNREACHABLE)
            it.machine.mute = set()
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)

    _run(work())


def test_a_vm_that_ended_is_no_longer_known_and_cannot_be_looked_at(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig() as it:
            await it.until(lambda: it.verdict("a") is Verdict.TRUSTED)
            del it.machine.started["a"]
            await it.until(lambda: it.verdict("a") is None)
            assert (await it.sweep.look_now("a")).verdict is Verdict.UNREACHABLE

    _run(work())


def test_a_vm_that_boots_is_not_looked_at_yet(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig(given=Start(IMAGES)) as it:
            ticks = int(float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK"))
            it.machine.started = {"a": ticks}
            await it.until(lambda: it.verdict("a") is Verdict.UNCHECKED)
            assert "not come up" in (await it.sweep.look_now("a")).reason

    _run(work())


def test_a_very_slow_boot_is_no_finding_and_tampering_after_it_is(ram: mmap.mmap) -> None:
    async def work() -> None:
        async with rig(given=Start(IMAGES)) as it:
            ram[:4] = b"evil"
            ticks = int((float(Path("/proc/uptime").read_text().split()[0]) - 121) * os.sysconf("SC_CLK_TCK"))
            it.machine.started = {"a": ticks}
            look = await it.sweep.look_now("a")
            assert look.verdict is it.verdict("a") is Verdict.UNCHECKED
            assert "did not come up" in look.reason
            assert look.results[0].findings  # shown all the same
            assert not it.incidents
            it.given["a"] = STARTED  # its channel answered once, before an agent that was killed
            await it.until(lambda: it.verdict("a") is Verdict.COMPROMISED)

    _run(work())


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

    _run(work())


def test_a_checker_cannot_be_asked_without_a_program(ram: mmap.mmap) -> None:
    async def work() -> None:
        with pytest.raises(CheckerError, match="cannot be started"):
            await Checker.start(["/nonexistent/checker"])

    _run(work())


def test_the_wait_after_failures_grows_and_is_bounded() -> None:
    waits = [backoff(failures) for failures in range(30)]
    assert waits == sorted(waits)
    assert waits[0] == 0.0
    assert waits[-1] == 60.0
