# SPDX-License-Identifier: GPL-2.0-or-later
"""A sweep with real checker processes that work or misbehave as told; its VM is this process, the RAM a mapped file."""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import pytest

from vinci.introspect.findings import Look, Verdict
from vinci.model.infrastructure import Introspection, Response
from vinci.node.introspection.assurance import Assurance
from vinci.node.introspection.checker import Checker
from vinci.node.introspection.given import Start
from vinci.node.introspection.sweep import Events, Sweep
from vinci.plan.types import Vm, VmKind
from vinci.vmm.host import VmmError
from vinci.vmm.instance import Instance, ProcessorTime

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may open the memory of a VM")

CHECKER = """
import json, os, socket, sys, time
mode, line = sys.argv[1], b""
connection = socket.socket(fileno=int(sys.argv[-1]))
if mode == "never-ready":
    sys.exit(1)
connection.sendall(b'{"checks": ["kernel-place"]}\\n')
ram, asked_before, times = {}, set(), {}
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
    times[asked["instance"]] = times.get(asked["instance"], 0) + 1
    if mode == "busy" and times[asked["instance"]] <= 3:
        result["findings"] = [finding]
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
"""A checker in a few lines: clean is a memory that begins with `good`, which it reads once in a VM's life."""
SIZE_MIB = 1
SETTINGS = Introspection(period_ms=100, jitter_percent=20, grace_ms=15_000, look_ms=1500)
IMPATIENT = SETTINGS.model_copy(update={"grace_ms": 700, "look_ms": 600_000})
IMAGES = "images"
STARTED = Start(IMAGES, came_up=True)


def app_vm(name: str, kind: VmKind = VmKind.APP) -> Vm:
    """A VM of which the sweep needs little more than its name."""
    return Vm(name, kind, "c", None, SIZE_MIB, 100, (), (), None, None, Response.ALERT)


@dataclass
class Machine:
    """This process, as a VM's QEMU."""

    started: dict[str, int]
    mute: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    stands_still: bool = False

    def processor_times(self, _instance: Instance) -> Mapping[int, ProcessorTime]:
        return {0: ProcessorTime(1.0 if self.stands_still else time.monotonic(), 0.0)}

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
    ram: mmap.mmap
    incidents: set[str]
    changes: list[tuple[str, Verdict]]
    failures: list[str]
    starts: list[Checker]
    mode: str
    given: dict[str, Start]
    images: str = IMAGES

    async def until(self, holds: Callable[[], bool]) -> None:
        # On a busy machine looks take too long as well, and each failure doubles the wait for the next checker.
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.02)

    async def until_both(self, verdict: Verdict) -> None:
        """Until this is the verdict on a and on b."""
        await self.until(lambda: self.verdict("a") is self.verdict("b") is verdict)

    def verdict(self, name: str) -> Verdict | None:
        state = self.sweep.state(name)
        return state.verdict if state else None


@contextmanager
def _mapped_ram() -> Iterator[mmap.mmap]:
    """Memory that is found among the mappings of this process, as a guest's is among its QEMU's."""
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.truncate(SIZE_MIB << 20)
        with mmap.mmap(file.fileno(), 0) as memory:
            memory[:4] = b"good"
            yield memory


@asynccontextmanager
async def rig(
    mode: str = "works", given: Start = STARTED, names: str = "ab", kind: VmKind = VmKind.APP
) -> AsyncIterator[Rig]:
    """A sweep over VMs of these one-letter names, which all share one memory; `mode` is the checker's."""
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
    vms = {name: app_vm(name, kind) for name in names}
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
    with _mapped_ram() as ram:
        made = Rig(sweep, machine, ram, incidents, changes, failures, starts, mode, starts_given)
        task = asyncio.create_task(sweep.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
