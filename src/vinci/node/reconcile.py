# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the plan with what runs and do the difference; repeated for ever, and safe to kill at any moment.

Order within a pass: what takes rights away comes before what gives them. Bridges and their rules stand before a VM
is started; a VM's firewall rules and its SELinux policy are in its boot files, so it starts with them in force.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from vinci.node.audit import Audit, Event, Severity
from vinci.node.channel import ChannelError
from vinci.node.consoles import Consoles
from vinci.node.grants import Grants
from vinci.node.guests import Guests
from vinci.node.network import NodeNetwork
from vinci.node.payload import SHARES_COMMAND, Payload, boot_payload, live_payload
from vinci.node.printable import printable
from vinci.node.restarts import Restarts
from vinci.node.rule_change import Steps, change_rules, give
from vinci.plan.types import NodePlan, Vm, VmKind
from vinci.vmm.domain import Accelerator, domain_xml, machine_digest
from vinci.vmm.host import RunningVm, VmHost, VmmError, VmState

_LOG = logging.getLogger(__name__)
BOOT_SECONDS = 120.0
ANSWER_SECONDS = 8.0
"""For a VM that ran before: a guest that no longer answers must not hold the others up."""
PARALLEL_STARTS = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """One step forward: what is being done, how many of how many parts of it are done."""

    step: str
    done: int
    total: int


Report = Callable[[Progress], None]


@dataclass(slots=True)
class Outcome:
    """What a pass did, and what it could not do."""

    changes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Reconciler:
    """Makes one node what its plan says."""

    def __init__(
        self,
        host: VmHost,
        guests: Guests,
        network: NodeNetwork,
        grants: Grants,
        consoles: Consoles,
        audit: Audit,
        accelerator: Accelerator,
        confined: Callable[[], Collection[str]],
        held: Collection[str],
    ) -> None:
        """
        Args:
            host, guests, network, grants, consoles, audit, accelerator: the node's.
            confined: gives the VMs in quarantine; asked from worker threads too.
            held: the VMs that an investigator has frozen now.
        """
        self._host = host
        self._guests = guests
        self._network = network
        self._grants = grants
        self._consoles = consoles
        self._audit = audit
        self._accelerator = accelerator
        self._confined = confined
        self._held = held
        self._pool = ThreadPoolExecutor(PARALLEL_STARTS, thread_name_prefix="vmm")
        self._lock = asyncio.Lock()
        self._delivered: dict[str, str] = {}
        self._booting: dict[str, str] = {}
        self._asked_to_stop: set[str] = set()
        self.restarts = Restarts()
        self._ended: dict[str, asyncio.Event] = {}
        self._unreachable: set[str] = set()
        self._ending: set[str] = set()
        self.reachable: set[str] = set()

    def stopped(self, name: str) -> bool:
        """Tell that a VM stopped; true when nobody had asked for it."""
        self.reachable.discard(name)
        if name in self._ended:
            self._ended[name].set()
        if name in self._asked_to_stop:
            self._asked_to_stop.discard(name)
            return False
        return True

    async def converge(self, name: str, plan: NodePlan, wanted: Sequence[Vm], report: Report) -> Outcome:
        """One whole pass: network, VMs that have to go, VMs that have to come, their configuration.

        Args:
            name: the infrastructure's name; VMs' UUIDs derive from it.
            plan: what the node has to be.
            wanted: the VMs of the plan that have to run now.
            report: called at each step forward.
        """
        async with self._lock:
            outcome = Outcome()
            await self._converge_network(plan, outcome, report)
            if outcome.failures:
                outcome.failures += await self._grants.deliver_all()  # who logged out has logged out all the same
                return outcome  # without its rules in force no VM may start
            running = await self._settled()
            declared = frozenset(vm.name for vm in plan.vms)
            kept = await self._stop_superfluous(wanted, declared, running, outcome, report)
            await self._resume([name for name in kept if running[name].state is VmState.PAUSED], outcome)
            self.reachable &= kept
            missing = [vm for vm in wanted if vm.name not in kept and vm.name not in self._ending]
            started = await self._start(name, plan, self._startable(missing, outcome), outcome, report)
            await self._configure(plan, [vm for vm in wanted if vm.name in kept | started], outcome, report)
            return outcome

    async def _settled(self) -> dict[str, RunningVm]:
        """The VMs that libvirt lists, without those found ended just now: it says so itself, and then they are gone.

        One that it lists as ended in two passes is left in the answer: it has to be stopped.
        """
        running = await self._in_thread(self._host.list)
        ended = {name for name, vm in running.items() if vm.state is VmState.STOPPED}
        self._ending = ended - self._ending
        return {name: vm for name, vm in running.items() if name not in self._ending}

    async def change(
        self, old: NodePlan, between: NodePlan, new: NodePlan, settle: Callable[[], Awaitable[None]]
    ) -> list[str]:
        """Bring the guests that go on from the rules of one plan to those of another; the names of those changed.

        Args:
            old: what is in force.
            between: what both plans permit (`vinci.plan.narrowing`).
            new: what shall be.
            settle: called when every guest has what is common, and before any gets what is new.

        Raises:
            RulesRefusedError: it failed, or one guest refused; all have the rules of `old` (again).
            PolicyError: a policy does not compile; nothing was changed.
        """
        async with self._lock:
            running = await self._in_thread(self._host.list)
            # What starts just now gets its rules when it answers; all others that go on have to take them.
            going_on = {name for name, vm in running.items() if vm.state is not VmState.STOPPED} - self._booting.keys()
            machines = {self._machine(vm) for vm in new.vms}
            kept = [vm for vm in old.vms if self._machine(vm) in machines and vm.name in going_on]
            payloads = await self._in_thread(lambda: [_steps(vm, old, between, new) for vm in kept])
            changes = [each for each in payloads if each.before != each.after]
            for each in changes:
                self._delivered.pop(each.vm.name, None)
            await change_rules(self._guests, self._audit, changes, settle)
            for each in changes:
                self._delivered[each.vm.name] = _digest(each.after)
            return [each.vm.name for each in changes]

    def _machine(self, vm: Vm) -> str:
        return machine_digest(vm, self._guests.image_digest, self._accelerator)

    def _startable(self, missing: list[Vm], outcome: Outcome) -> list[Vm]:
        """Those of the missing VMs that need not wait because they ended soon after their last starts."""
        now = asyncio.get_running_loop().time()
        waits = {vm.name: self.restarts.wait(vm.name, now) for vm in missing}
        outcome.failures += [
            f"VM {name} ends soon after each start and is started again in {wait:.0f} s: see `vinci console {name}`"
            for name, wait in waits.items()
            if wait
        ]
        return [vm for vm in missing if not waits[vm.name]]

    async def stop_all(self, report: Report) -> Outcome:
        """End every VM and take the network away."""
        async with self._lock:
            outcome = Outcome()
            running = await self._in_thread(self._host.list)
            await self._stop_superfluous([], frozenset(), running, outcome, report)
            self.reachable.clear()
            return outcome

    async def _resume(self, frozen: list[str], outcome: Outcome) -> None:
        """Let VMs go on that an investigator's agent froze and did not live to let go."""

        async def resume(name: str) -> None:
            if name not in self._held:
                await self._in_thread(partial(self._host.resume, name))
                outcome.changes.append(f"VM {name} goes on")

        await self._each("resume VMs", frozen, resume, outcome, lambda _: None)

    async def stop(self, name: str, why: str) -> None:
        """End one VM at once, whatever a pass is busy with.

        Raises:
            VmmError: it still runs.
        """
        self._asked_to_stop.add(name)
        self._guests.forget(name)
        self._delivered.pop(name, None)
        await self._in_thread(partial(self._host.stop, name))
        self._audit.record(Event.VM_STOPPED, Severity.NOTICE, f"VM {name} stopped: {why}", vm=name)

    async def running(self) -> dict[str, RunningVm]:
        """What the VMM says runs now."""
        return await self._in_thread(self._host.list)

    async def _converge_network(self, plan: NodePlan, outcome: Outcome, report: Report) -> None:
        report(Progress("network", 0, 1))

        def quarantined() -> list[str]:
            confined = self._confined()
            return [nic.tap for vm in plan.vms if vm.name in confined for nic in vm.nics]

        try:
            changes = await self._in_thread(partial(self._network.converge, plan.bridges, quarantined))
        except OSError as error:
            outcome.failures.append(f"network: {error}")
            self._audit.record(Event.OPERATION_FAILED, Severity.ERROR, f"the node's network failed: {error}")
            return
        for change in changes:
            self._audit.record(Event.RULES_REPLACED, Severity.NOTICE, change)
        outcome.changes += changes
        report(Progress("network", 1, 1))

    async def _stop_superfluous(
        self,
        wanted: Sequence[Vm],
        declared: frozenset[str],
        running: dict[str, RunningVm],
        outcome: Outcome,
        report: Report,
    ) -> set[str]:
        digests = {vm.name: self._machine(vm) for vm in wanted}
        kept = {
            name for name, vm in running.items() if digests.get(name) == vm.digest and vm.state is not VmState.STOPPED
        }
        superfluous = [name for name in running if name not in kept]

        async def stop(name: str) -> None:
            why = "its definition changed" if name in digests else "it is no longer declared"
            if name in declared and name not in digests:
                why = "it must not run" if name in self._confined() else "nobody uses it"
            await self.stop(name, why)
            outcome.changes.append(f"VM {name} stopped: {why}")

        await self._each("stop VMs", superfluous, stop, outcome, report)
        return kept

    async def _start(self, name: str, plan: NodePlan, missing: list[Vm], outcome: Outcome, report: Report) -> set[str]:
        """Start VMs; the names of those that did start."""
        started = set()

        async def start(vm: Vm) -> None:
            self._guests.forget(vm.name)
            self._delivered.pop(vm.name, None)
            self._grants.forget(vm.name)
            self._booting.pop(vm.name, None)
            payload = await self._in_thread(partial(boot_payload, plan, vm))
            files = self._guests.prepare(vm, payload)
            xml = domain_xml(name, vm, files, self._accelerator)
            self._asked_to_stop.discard(vm.name)  # an end that comes from now on is this start's
            await self._in_thread(partial(self._host.start, vm.name, xml))
            self.restarts.started(vm.name, asyncio.get_running_loop().time())
            self._consoles.listen(vm.name)
            live = await self._in_thread(partial(live_payload, plan, vm))
            self._booting[vm.name] = _digest(live)  # what it boots with needs no second delivery
            self._audit.record(Event.VM_STARTED, Severity.INFO, f"VM {vm.name} started", vm=vm.name)
            outcome.changes.append(f"VM {vm.name} started")
            started.add(vm.name)

        await self._each("start VMs", missing, start, outcome, report)
        return started

    async def _configure(self, plan: NodePlan, wanted: Sequence[Vm], outcome: Outcome, report: Report) -> None:
        async def configure(vm: Vm) -> None:
            self._consoles.listen(vm.name)
            try:
                await self._answering(vm)
                await self._deliver(plan, vm, outcome)
            except ChannelError as error:
                if vm.name not in self._unreachable:
                    self._audit.record(Event.VM_UNREACHABLE, Severity.WARNING, str(error), vm=vm.name)
                self._unreachable.add(vm.name)
                self.reachable.discard(vm.name)
                outcome.failures.append(str(error))
                return
            self._unreachable.discard(vm.name)
            self.reachable.add(vm.name)

        await self._each("boot and configure VMs", list(wanted), configure, outcome, report)

    async def _answering(self, vm: Vm) -> None:
        """Wait until a VM's control channel answers: long for one that boots, and not at all once it has ended."""
        seconds = BOOT_SECONDS if vm.name in self._booting else ANSWER_SECONDS
        ended = self._ended[vm.name] = asyncio.Event()
        opening = asyncio.ensure_future(self._guests.channel(vm.name).open(seconds))
        ending = asyncio.ensure_future(ended.wait())
        await asyncio.wait({opening, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not opening.done():
            opening.cancel()
            raise ChannelError(f"VM {vm.name} ended while it started")
        await opening

    async def _deliver(self, plan: NodePlan, vm: Vm, outcome: Outcome) -> None:
        """Bring a running guest's rules, policy and tables up to date when they differ from what it has."""
        payload = await self._in_thread(partial(live_payload, plan, vm))
        digest = _digest(payload)
        try:
            if vm.name not in self._delivered:
                await self._check_boot(vm)
                self._guests.given.came_up(vm.name)
            if vm.name in self._booting:
                self._delivered[vm.name] = self._booting.pop(vm.name)
            if self._delivered.get(vm.name) != digest:
                await give(self._guests, vm.name, payload)
                if vm.name in self._delivered:
                    outcome.changes.append(f"VM {vm.name} got new rules")
                    self._audit.record(Event.RULES_REPLACED, Severity.NOTICE, f"VM {vm.name} got new rules", vm=vm.name)
                self._delivered[vm.name] = digest
        finally:
            if vm.kind is VmKind.FS:
                # Also when the rules were refused: a grant that ended has ended all the same.
                await self._grants.deliver(vm.name)

    async def _check_boot(self, vm: Vm) -> None:
        """The guest's own word on its boot: what failed left its interfaces down or its service off."""
        status = (await self._guests.channel(vm.name).run("cat /run/vinci/status")).text.strip()
        if status != "ok":
            raise ChannelError(f"VM {vm.name} did not come up: {printable(status)[:300] or 'its init did not finish'}")

    async def _each(
        self,
        step: str,
        items: Sequence[T],
        action: Callable[[T], Awaitable[None]],
        outcome: Outcome,
        report: Report,
    ) -> None:
        """Do `action` for all items at once; a failed one is recorded and does not stop the others."""
        done = 0

        async def one(item: T) -> None:
            nonlocal done
            try:
                await action(item)
            except (VmmError, ChannelError, OSError) as error:
                outcome.failures.append(str(error))
                self._audit.record(Event.OPERATION_FAILED, Severity.ERROR, f"{step}: {error}")
            except Exception as error:
                _LOG.exception("%s failed", step)
                outcome.failures.append(f"{step}: {error!r}")
                self._audit.record(Event.OPERATION_FAILED, Severity.ERROR, f"{step}: {error!r}")
            done += 1
            report(Progress(step, done, len(items)))

        if items:
            report(Progress(step, 0, len(items)))
            await _gather(one(item) for item in items)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)


async def _gather(tasks: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*tasks)


def _steps(vm: Vm, old: NodePlan, between: NodePlan, new: NodePlan) -> Steps:
    before, after = live_payload(old, vm), live_payload(new, vm)
    if before == after:
        return Steps(vm, before, [], after)
    # Trees of shares are made and labelled when the new policy is in force.
    rights, narrow = (
        [each for each in given if each[0] != SHARES_COMMAND] for given in (before, live_payload(between, vm))
    )
    return Steps(vm, before, narrow if narrow != rights else [], after)


def _digest(payload: Payload) -> str:
    return hashlib.sha256(repr(payload).encode()).hexdigest()
