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

from vinci.introspect.findings import Check, CheckResult, Look, Verdict, rests_on_registers
from vinci.introspect.protocol import Request, packed
from vinci.introspect.registers import parse_registers
from vinci.model.infrastructure import Introspection
from vinci.node.introspection.assurance import (
    BOOT_SECONDS,
    Assurance,
    at,
    failed,
    held_back,
    looked,
    released,
    started,
    unchecked,
    unfit_for,
)
from vinci.node.introspection.checker import Checker, CheckerError, TooLargeError
from vinci.node.introspection.given import Start
from vinci.node.introspection.pace import NO_HINDRANCE, Hindrance, backoff, interval, rest
from vinci.plan.types import Vm
from vinci.vmm.host import VmmError
from vinci.vmm.instance import Instance, ProcessorTime, open_ram

_LOG = logging.getLogger(__name__)
MONITOR_SECONDS = 3.0
MONITOR_THREADS = 8
"""A QEMU that does not answer holds one of them; the VM is asked no second time meanwhile."""
TICK_SECONDS = 0.25
CONFIRMATIONS = 2
"""Looks with new registers that have to agree, before tampering that rests on registers counts."""
RAN_SECONDS = 0.02
"""So long each processor of a VM has to have run between two looks that agree: what a kernel is in the middle of, as a
fork, takes a part of it. On a busy machine all samples of one look may see a processor at the same instruction."""
STILL_SECONDS = 3.0
"""A VM whose processors do not run for so long is unchecked, whatever is found in it."""
STILL_TICK = 0.03


class Machine(Protocol):
    """What the sweep needs of the VMM (`vinci.vmm.host.VmHost`)."""

    def instance(self, name: str) -> Instance | None:
        """The process in which a VM runs now."""

    def monitor(self, name: str, command: str) -> str:
        """QEMU's answer to a command of its monitor. Raises VmmError."""

    def processor_times(self, instance: Instance) -> Mapping[int, ProcessorTime]:
        """How long each of its processors has run and waited; empty when the machine does not tell."""


@dataclass(frozen=True, slots=True)
class Events:
    """Whom the sweep tells. Called on the agent's event loop."""

    changed: Callable[[str, Assurance, Assurance], None]
    """A VM's verdict is another one than before."""
    found: Callable[[str, Look], None]
    """A look found tampering: of a VM without an incident, or once more."""
    checker_failed: Callable[[str], None]


class Sweep:
    """Looks at all VMs for ever."""

    def __init__(
        self,
        machine: Machine,
        start_checker: Callable[[], Awaitable[Checker]],
        wanted: Callable[[], Mapping[str, Vm]],
        given: Callable[[str], Start | None],
        images: Callable[[], str],
        incidents: Callable[[], frozenset[str]],
        events: Events,
        ethertypes: Callable[[Vm], tuple[int, ...]] = lambda _: (),
    ) -> None:
        """
        Args:
            machine: the VMM.
            start_checker: starts a checker process for the images of now. Raises CheckerError.
            wanted: the VMs to be watched, by name.
            given: what a VM was started with and given since; None when that is not known.
            images: the digest of the images that VMs are started from now.
            incidents: the VMs that were found compromised and not released since.
            events: whom to tell.
            ethertypes: those that are declared for a VM.
        """
        self._machine = machine
        self._start_checker = start_checker
        self._wanted = wanted
        self._given = given
        self._images = images
        self._incidents = incidents
        self._events = events
        self._ethertypes = ethertypes
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(MONITOR_THREADS, thread_name_prefix="monitor")
        self._asked: dict[str, asyncio.Future[str]] = {}
        self._states: dict[str, Assurance] = {}
        self._due: dict[str, float] = {}
        self._hindrances: dict[str, Hindrance] = {}
        self._looks = 0
        self._checker: Checker | None = None
        self._checker_images = ""
        self._failed_starts = 0
        self._no_start_before = 0.0
        self._looking = asyncio.Lock()
        self._refreshed = -TICK_SECONDS
        self._first_look_ended = 0.0
        self.settings = Introspection()

    # -- what is known ---------------------------------------------------------------------------------------------

    def state(self, name: str) -> Assurance | None:
        """What is known of a VM now, whether or not the sweep still goes on; None when it does not run."""
        state = self._states.get(name)
        return None if state is None else at(state, self._loop.time(), self._allowed)

    @property
    def _allowed(self) -> float:
        """Seconds for which a complete look holds."""
        return (3 * self.settings.period_ms + self.settings.grace_ms) / 1000

    @property
    def checker_pid(self) -> int | None:
        """The process id of the checker, while one runs."""
        return self._checker.pid if self._checker else None

    def release(self, name: str) -> None:
        """An administrator's word; the caller has made sure that it is all that was missing. Raises ValueError."""
        state = self.state(name)
        if state is not None:
            self._set(name, released(state))

    # -- when ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sweep until cancelled; the checker ends with it."""
        clock = asyncio.create_task(self._watch_clock())
        try:
            while True:
                if clock.done():
                    clock = asyncio.create_task(self._watch_clock())
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
            self._refresh(now=True)
            if name not in self._states:
                return Look(name, Verdict.UNREACHABLE, (), 0.0, "it does not run")
            return await self._look(name)

    async def renew_checker(self) -> None:
        """End the checker; the next look starts another one."""
        if self._checker is not None:
            checker, self._checker = self._checker, None
            await checker.end()

    def _refresh(self, *, now: bool = False) -> None:
        """Take notice of VMs that were started, ended, or started anew: every TICK_SECONDS, or `now`."""
        time = self._loop.time()
        if time - self._refreshed < TICK_SECONDS and not now:
            return
        self._refreshed = time
        wanted = self._wanted()
        for name in self._states.keys() - wanted.keys():
            self._forget(name)
        for name in wanted:
            instance = self._machine.instance(name)
            if instance is None:
                self._forget(name)
            elif name not in self._states or self._states[name].instance != str(instance):
                self._forget(name)
                self._states[name] = started(str(instance), time, incident=name in self._incidents())
                self._due[name] = time + self._spread() * random.random()

    def _forget(self, name: str) -> None:
        for known in (self._states, self._due, self._hindrances):
            known.pop(name, None)

    def _spread(self) -> float:
        return interval(self.settings, random.random())

    async def _watch_clock(self) -> None:
        """Tell of VMs whose looks do not come, also while the sweep waits for something that hangs.

        What holds for them (`state`) does not depend on it.
        """
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for name, state in list(self._states.items()):
                self._set(name, at(state, self._loop.time(), self._allowed))

    # -- one look --------------------------------------------------------------------------------------------------

    async def _look(self, name: str) -> Look:
        self._due[name] = self._loop.time() + self._spread()
        vm, instance = self._wanted()[name], self._machine.instance(name)
        if instance is None:
            return Look(name, Verdict.UNREACHABLE, (), 0.0, "it does not run")
        look, began = await self._seen(vm, instance, self._given(name))
        state = self._states.get(name)
        if state is None or self._machine.instance(name) != instance or state.instance != str(instance):
            return replace(look, verdict=Verdict.UNREACHABLE, results=(), reason="it ended while it was looked at")
        self._set(name, looked(state, look, began))
        if look.verdict is Verdict.COMPROMISED:
            self._events.found(name, look)
        return look

    async def _seen(self, vm: Vm, instance: Instance, given: Start | None) -> tuple[Look, float]:
        """A look at one life of a VM, or why there is none; and when it began."""
        began = self._loop.time()
        if given is not None and not given.came_up and instance.age < BOOT_SECONDS:
            self._due[vm.name] = began + TICK_SECONDS
            return unchecked(vm.name, "it has not come up yet"), began
        first = False
        try:
            checker = await self._ready_checker()
            if (unfit := unfit_for(given, self._checker_images)) is not None:
                return unchecked(vm.name, unfit), began
            began = self._loop.time()  # starting a checker takes its time, which is not this VM's
            first = str(instance) not in checker.knows
            look = await self._complete(checker, vm, instance)
            if not first:  # which is dear for every VM
                self._due[vm.name] = max(self._due[vm.name], began + rest(self._loop.time() - began, self._allowed))
        except (VmmError, OSError, TimeoutError) as error:
            text = "QEMU's monitor does not answer" if isinstance(error, TimeoutError) else str(error)
            look = Look(vm.name, Verdict.UNREACHABLE, (), 0.0, text)
        except TooLargeError as error:
            look = unchecked(vm.name, str(error))
        except CheckerError as error:
            look = self._in_vain(vm.name, error)
        finally:
            if first:
                self._first_look_ended = self._loop.time()
        return held_back(look, vm, given), began

    async def _complete(self, checker: Checker, vm: Vm, instance: Instance) -> Look:
        """A look, made again where what it found may have changed under it."""
        look = await self._with_registers(checker, vm, instance)
        if look.verdict is Verdict.COMPROMISED and vm.name not in self._incidents():
            if await self._has_run(vm.name, instance):
                look = await self._with_registers(checker, vm, instance)
            else:
                what = f"it did not run for {STILL_SECONDS:g} s, so what was found cannot be told from a moment's work"
                look = replace(look, verdict=Verdict.UNCHECKED, reason=what)
        if look.verdict in (Verdict.TRUSTED, Verdict.COMPROMISED):
            self._looks += 1
            self._hindrances.pop(vm.name, None)
        return look

    async def _with_registers(self, checker: Checker, vm: Vm, instance: Instance) -> Look:
        look = await self._ask(checker, vm, instance)
        for _ in range(CONFIRMATIONS):
            if not rests_on_registers(look):
                break
            look = await self._ask(checker, vm, instance)
        return look

    async def _has_run(self, name: str, instance: Instance) -> bool:
        """Wait until each processor has run for a while or is at rest; whether that came to be.

        QEMU and the machine tell so, not the guest, which may do neither and hide something meanwhile.
        """
        before, end = self._machine.processor_times(instance), self._loop.time() + STILL_SECONDS
        while self._loop.time() < end:
            await asyncio.sleep(STILL_TICK)
            now = self._machine.processor_times(instance)
            still = {number for number, time in now.items() if time.ran - before.get(number, time).ran < RAN_SECONDS}
            if not still - (await self._at_rest(name) if still else set()):
                return True
        return False

    async def _at_rest(self, name: str) -> set[int]:
        try:
            processors = parse_registers(await self._monitor(name, "info registers -a"))
        except ValueError:
            return set()
        return {processor.number for processor in processors if processor.halted}

    def _in_vain(self, name: str, error: CheckerError) -> Look:
        """What a look is worth that the checker did not end."""
        hindrance = self._hindrances.get(name)
        if hindrance is None or not hindrance.is_tampering:
            return unchecked(name, str(error))
        text = "looking at it ended the checker again and again, while other VMs could be looked at"
        return Look(name, Verdict.COMPROMISED, (CheckResult(Check.PLACE, 0, 0.0, error=f"{text}: {error}"),), 0.0)

    async def _ask(self, checker: Checker, vm: Vm, instance: Instance) -> Look:
        registers = await self._monitor(vm.name, "info registers -a")
        running = tuple(state.instance for state in self._states.values())
        given = self._given(vm.name)
        policies = tuple(packed(policy) for policy in given.policies) if given is not None else ()
        waited = max((time.waited for time in self._machine.processor_times(instance).values()), default=0.0)
        request = Request(
            vm.name, str(instance), vm.kind.value, registers, running, None, policies, self._ethertypes(vm), waited
        )
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
        images = self._images()
        if self._checker_images != images:
            await self.renew_checker()
        if self._checker is None:
            if self._loop.time() < self._no_start_before:
                raise CheckerError("the checker failed and is started again soon")
            try:
                self._checker, self._checker_images = await self._start_checker(), images
            except CheckerError as error:
                self._failed_starts += 1
                self._no_start_before = self._loop.time() + backoff(self._failed_starts)
                self._events.checker_failed(str(error))
                raise
            self._failed_starts = 0
        return self._checker

    async def _checker_failed(self, name: str, error: CheckerError) -> None:
        """End it. All VMs are unchecked until the next one looked at them; the VM that it failed at waits longest."""
        before = self._hindrances.get(name, NO_HINDRANCE)
        self._hindrances[name] = before.again(self._looks)
        self._due[name] = self._loop.time() + max(self._spread(), backoff(before.times))
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
