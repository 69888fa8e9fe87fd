# SPDX-License-Identifier: GPL-2.0-or-later
"""The sweep: each VM of the node is looked at once in every period, one after the other, at times nobody can foretell.

The agent's part is small: registers from QEMU's monitor, the RAM's file descriptor, one question to the checker. What
is known of a VM is in `assurance`; whatever hinders a look makes it unchecked, and an unchecked VM is not trusted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from vinci.introspect.findings import Look, Verdict, rests_on_registers
from vinci.introspect.protocol import Request, packed
from vinci.model.infrastructure import Introspection
from vinci.node.introspection.assurance import Assurance, at, failed, looked, released, started
from vinci.node.introspection.checker import Checker, CheckerError
from vinci.plan.types import Vm
from vinci.vmm.host import VmmError
from vinci.vmm.instance import Instance, open_ram

_LOG = logging.getLogger(__name__)
MONITOR_SECONDS = 3.0
MONITOR_THREADS = 8
"""A QEMU that does not answer holds one of them; the VM is asked no second time meanwhile."""
BOOT_SECONDS = 120.0
"""A VM that did not come up in this time is looked at all the same."""
TICK_SECONDS = 0.25
CONFIRMATIONS = 2
"""Looks with new registers that have to agree, before tampering that rests on registers counts."""
MAX_BACKOFF_SECONDS = 60.0


class Machine(Protocol):
    """What the sweep needs of the VMM (`vinci.vmm.host.VmHost`)."""

    def instance(self, name: str) -> Instance | None:
        """The process in which a VM runs now."""

    def monitor(self, name: str, command: str) -> str:
        """QEMU's answer to a command of its monitor. Raises VmmError."""


@dataclass(frozen=True, slots=True)
class Events:
    """Whom the sweep tells. Called on the agent's event loop."""

    changed: Callable[[str, Assurance, Assurance], None]
    """A VM's verdict is another one than before."""
    compromised: Callable[[str, Look], Awaitable[None]]
    """A VM without an incident was found compromised."""
    checker_failed: Callable[[str], None]


class Sweep:
    """Looks at all VMs for ever."""

    def __init__(
        self,
        machine: Machine,
        start_checker: Callable[[], Awaitable[Checker]],
        wanted: Callable[[], Mapping[str, Vm]],
        came_up: Callable[[str], bool],
        incidents: Callable[[], frozenset[str]],
        events: Events,
        policies: Callable[[str], tuple[bytes, ...]] = lambda name: (),
    ) -> None:
        """
        Args:
            machine: the VMM.
            start_checker: starts a checker process. Raises CheckerError.
            wanted: the VMs to be watched, by name.
            came_up: whether a VM has booted: before, its kernel is not where it will be.
            incidents: the VMs that were found compromised and not released since.
            events: whom to tell.
            policies: the SELinux policies that may be in force in a VM.
        """
        self._machine = machine
        self._start_checker = start_checker
        self._wanted = wanted
        self._came_up = came_up
        self._incidents = incidents
        self._events = events
        self._policies = policies
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(MONITOR_THREADS, thread_name_prefix="monitor")
        self._asked: dict[str, asyncio.Future[str]] = {}
        self._states: dict[str, Assurance] = {}
        self._due: dict[str, float] = {}
        self._hindered: dict[str, int] = {}
        """How often in a row a look at a VM ended the checker."""
        self._checker: Checker | None = None
        self._failed_starts = 0
        self._no_start_before = 0.0
        self._looking = asyncio.Lock()
        self._refreshed = -TICK_SECONDS
        self._first_look_ended = 0.0
        self.settings = Introspection()

    # -- what is known ---------------------------------------------------------------------------------------------

    def state(self, name: str) -> Assurance | None:
        """What is known of a VM now; None when it does not run."""
        return self._states.get(name)

    @property
    def checker_pid(self) -> int | None:
        """The process id of the checker, while one runs."""
        return self._checker.pid if self._checker else None

    def release(self, name: str) -> None:
        """An administrator's word; the caller has made sure that it is all that was missing. Raises ValueError."""
        if name in self._states:
            self._set(name, released(self._states[name]))

    # -- when ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sweep until cancelled; the checker ends with it."""
        clock = asyncio.create_task(self._watch_clock())
        try:
            while True:
                try:
                    self._refresh()
                    name = self._next(self._loop.time())
                    if name is None:
                        soonest = min(self._due.values(), default=float("inf")) - self._loop.time()
                        await asyncio.sleep(max(0.0, min(soonest, TICK_SECONDS)))
                        continue
                    async with self._looking:
                        await self._look(name)
                except Exception:  # of the sweep itself: VMs become unchecked, and the next round is tried
                    _LOG.exception("the sweep failed")
                    await asyncio.sleep(TICK_SECONDS)
        finally:
            clock.cancel()
            await self.renew_checker()

    def _next(self, now: float) -> str | None:
        """The VM whose turn it is, None when none is due.

        The first look at a VM takes as long as many others. All VMs that became due meanwhile come before the next
        first one, or they would become unchecked after each start of a checker.
        """
        due = [name for name in sorted(self._due, key=self._due.__getitem__) if self._due[name] <= now]
        known = self._checker.knows if self._checker is not None else set()
        first = [name for name in due if self._states[name].instance not in known]
        again = [name for name in due if self._states[name].instance in known]
        waited = [name for name in again if self._due[name] <= self._first_look_ended]
        return next(iter(waited or first or again), None)

    async def look_now(self, name: str) -> Look:
        """Look at a VM out of turn; the look, which counts like any other."""
        async with self._looking:
            self._refresh()
            if name not in self._states:
                return Look(name, Verdict.UNREACHABLE, (), 0.0, "it does not run")
            return await self._look(name)

    async def renew_checker(self) -> None:
        """End the checker; the next look starts another one."""
        if self._checker is not None:
            checker, self._checker = self._checker, None
            await checker.end()

    def _refresh(self) -> None:
        """Take notice of VMs that were started, ended, or started anew."""
        now = self._loop.time()
        if now - self._refreshed < TICK_SECONDS:
            return
        self._refreshed = now
        wanted = self._wanted()
        for name in self._states.keys() - wanted.keys():
            self._forget(name)
        for name in wanted:
            instance = self._machine.instance(name)
            if instance is None:
                self._forget(name)
            elif name not in self._states or self._states[name].instance != str(instance):
                self._forget(name)
                self._states[name] = started(str(instance), now, incident=name in self._incidents())
                self._due[name] = now + self._spread() * random.random()

    def _forget(self, name: str) -> None:
        for known in (self._states, self._due, self._hindered):
            known.pop(name, None)

    def _spread(self) -> float:
        return self.settings.period_ms / 1000 * (1 - self.settings.jitter_percent / 100 * random.random())

    async def _watch_clock(self) -> None:
        """Notice VMs whose looks do not come, also while the sweep waits for something that hangs."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            allowed = (3 * self.settings.period_ms + self.settings.grace_ms) / 1000
            for name, state in list(self._states.items()):
                self._set(name, at(state, self._loop.time(), allowed))

    # -- one look --------------------------------------------------------------------------------------------------

    async def _look(self, name: str) -> Look:
        began = self._loop.time()
        self._due[name] = began + self._spread()
        vm, instance = self._wanted()[name], self._machine.instance(name)
        if instance is None:
            return Look(name, Verdict.UNREACHABLE, (), 0.0, "it does not run")
        if not self._came_up(name) and instance.age < BOOT_SECONDS:
            self._due[name] = began + TICK_SECONDS
            return Look(name, Verdict.UNCHECKED, (), 0.0, "it has not come up yet")
        first = False
        try:
            checker = await self._ready_checker()
            began = self._loop.time()  # starting a checker takes its time, which is not this VM's
            first = str(instance) not in checker.knows
            look = await self._ask(checker, vm, instance)
            for _ in range(CONFIRMATIONS):
                if not rests_on_registers(look):
                    break
                look = await self._ask(checker, vm, instance)
        except (VmmError, OSError, TimeoutError) as error:
            text = "QEMU's monitor does not answer" if isinstance(error, TimeoutError) else str(error)
            look = Look(name, Verdict.UNREACHABLE, (), 0.0, text)
        except CheckerError as error:
            look = Look(name, Verdict.UNCHECKED, (), 0.0, str(error))
        else:
            self._hindered.pop(name, None)
        if first:
            self._first_look_ended = self._loop.time()
        state = self._states.get(name)
        if state is None or self._machine.instance(name) != instance or state.instance != str(instance):
            return replace(look, verdict=Verdict.UNREACHABLE, results=(), reason="it ended while it was looked at")
        after = looked(state, look, began)
        if after.incident and not state.incident:
            await self._events.compromised(name, look)
        self._set(name, after)
        return look

    async def _ask(self, checker: Checker, vm: Vm, instance: Instance) -> Look:
        registers = await self._monitor(vm.name, "info registers -a")
        running = tuple(state.instance for state in self._states.values())
        policies = tuple(packed(policy) for policy in self._policies(vm.name))
        request = Request(vm.name, str(instance), vm.kind.value, registers, running, policies=policies)
        ram = None
        try:
            if request.instance not in checker.knows:
                request = replace(request, mtree=await self._monitor(vm.name, "info mtree -f"))
                ram = open_ram(instance, vm.memory_mib)
            return await checker.look(request, ram, self.settings.look_ms / 1000)
        except CheckerError as error:
            await self._checker_failed(vm.name, error)
            raise
        finally:
            if ram is not None:
                os.close(ram)

    async def _monitor(self, name: str, command: str) -> str:
        if name in self._asked and not self._asked[name].done():
            raise TimeoutError
        asked = self._loop.run_in_executor(self._threads, partial(self._machine.monitor, name, command))
        self._asked[name] = asked
        async with asyncio.timeout(MONITOR_SECONDS):
            return await asyncio.shield(asked)

    async def _ready_checker(self) -> Checker:
        if self._checker is None:
            if self._loop.time() < self._no_start_before:
                raise CheckerError("the checker failed and is started again soon")
            try:
                self._checker = await self._start_checker()
            except CheckerError as error:
                self._failed_starts += 1
                self._no_start_before = self._loop.time() + backoff(self._failed_starts)
                self._events.checker_failed(str(error))
                raise
            self._failed_starts = 0
        return self._checker

    async def _checker_failed(self, name: str, error: CheckerError) -> None:
        """End it. All VMs are unchecked until the next one looked at them; the VM that it failed at waits longest."""
        self._hindered[name] = self._hindered.get(name, 0) + 1
        self._due[name] = self._loop.time() + max(self._spread(), backoff(self._hindered[name] - 1))
        await self.renew_checker()
        self._events.checker_failed(str(error))
        for other, state in list(self._states.items()):
            self._set(other, failed(state, str(error)))

    def _set(self, name: str, after: Assurance) -> None:
        before = self._states.get(name)
        if before is None:
            return
        self._states[name] = after
        if before.verdict is not after.verdict:
            self._events.changed(name, before, after)


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return 0.0 if failures <= 0 else min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures - 1, 10))
