# SPDX-License-Identifier: GPL-2.0-or-later
"""The A-VM's agent: one process a node that makes the node what the declaration says, and keeps it so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from vinci.images.build import Images, find_images
from vinci.model.problems import DeclarationError
from vinci.node.audit import Audit, Event, Severity
from vinci.node.channel import ChannelError
from vinci.node.consoles import Consoles
from vinci.node.entitled import keeps_right, must_end
from vinci.node.events import watch_file_server, watch_firewall, watch_packets
from vinci.node.grants import Grants
from vinci.node.guests import Guests
from vinci.node.in_force import InForce, derive
from vinci.node.introspection.evidence import Evidence
from vinci.node.introspection.incidents import Incidents
from vinci.node.introspection.response import Responder
from vinci.node.introspection.service import IntrospectionService
from vinci.node.network import NodeNetwork
from vinci.node.paths import NodePaths
from vinci.node.reconcile import Outcome, Progress, Reconciler, Report
from vinci.node.sessions import Logins
from vinci.plan.difference import declared_changes
from vinci.plan.narrowing import narrowed
from vinci.plan.types import Vm, VmKind
from vinci.policy.login import Entrance
from vinci.store.sqlite import Session, Store
from vinci.vmm.domain import Accelerator
from vinci.vmm.host import RunningVm, VmEvent, VmHost, VmState

_LOG = logging.getLogger(__name__)
RECONCILE_SECONDS = 10.0
PACKETS = "(dropped packets)"
"""Name of the task that listens to the bridges; no VM is called so."""
SWEEP = "(sweep)"
"""Name of the task that looks at the VMs."""


def _silent(_progress: Progress) -> None:
    """No one watches this pass."""


class Agent:
    """The agent's state and its tasks. Everything runs on one event loop; libvirt's calls in worker threads."""

    def __init__(
        self,
        paths: NodePaths,
        store: Store,
        audit: Audit,
        images: Images,
        accelerator: Accelerator,
        uri: str | None,
        cache: Path,
    ) -> None:
        self.paths = paths
        self.store = store
        self.audit = audit
        self.accelerator = accelerator
        self._cache = cache
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self.host = VmHost(paths.libvirt, uri, self._vm_event)
        self.guests = Guests(paths, store, images)
        self.consoles = Consoles(paths.console_socket)
        self.network = NodeNetwork(paths.namespace)
        self.incidents = Incidents(store)
        self.evidence = Evidence(store, self.host, paths.node)
        self.grants = Grants(self.guests, self._sessions_with_rights)
        self.logins = Logins(
            paths.node,
            store,
            self.guests,
            self.grants,
            audit,
            self._ensure_vm,
            self._release_vm,
            lambda: self.incidents.confined,
        )
        self.in_force: InForce | None = None
        self._revoking: asyncio.Task[None] | None = None
        self.invalid: str | None = None
        """Why the stored declaration cannot be followed; what runs goes on running."""
        self._reconciler = Reconciler(
            self.host,
            self.guests,
            self.network,
            self.grants,
            self.consoles,
            audit,
            accelerator,
            lambda: self.incidents.confined,
            self.evidence.paused,
        )
        self._responder = Responder(self.network, self.grants, self._reconciler, audit, self._wake.set)
        self.introspection = IntrospectionService(
            paths,
            self.host,
            images,
            audit,
            self.incidents,
            self._declared_vms,
            self.guests.given.of,
            self._responder.respond,
            self._lift,
            lambda vm: self.in_force.ethertypes(vm) if self.in_force is not None else (),
        )
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._changing = asyncio.Lock()
        self.verifying = asyncio.Lock()
        """Held by the verification that runs: there is one at a time."""
        self._passing = asyncio.Lock()  # while a change reaches the guests, no pass brings the rules before back
        self.is_down = False
        """A `down` succeeded: nothing runs any more, and the process is about to end."""
        self.finished = asyncio.Event()

    # -- declarations ------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take up the stored declaration after a start. One that no longer validates is reported, nothing stops."""
        for session in self.store.sessions():
            self.store.close_session(session.id)  # its terminal died with the last agent
            self.logins.unfinished(session.vm, session.user)
        stored = self.store.declaration()
        if stored is None:
            return
        try:
            self.in_force = derive(self.paths.node, stored.version, stored.path, stored.text)
        except Exception as error:  # a file that an older version took may break this one in any way
            if not isinstance(error, DeclarationError):
                _LOG.exception("the stored declaration cannot be taken up")
            self.invalid = str(error) or repr(error)
            self.audit.record(
                Event.DECLARATION_REFUSED,
                Severity.ERROR,
                f"the stored declaration {stored.path} no longer validates; what runs goes on: {error}",
            )
            self._revoking = self._loop.create_task(self._revoke_everything())
            return
        self._use(self.in_force)

    async def _revoke_everything(self) -> None:
        """Empty the FS-VMs' tables: nobody is logged in, and no plan says which FS-VMs there are."""
        for vm in (await self.running()).values():
            if vm.kind != VmKind.FS:
                continue
            try:
                await self.guests.channel(vm.name).check("/usr/lib/vinci/fs-grants")
            except ChannelError as error:
                self.audit.record(
                    Event.OPERATION_FAILED, Severity.ERROR, f"grants on {vm.name} are not revoked: {error}", vm=vm.name
                )

    def _use(self, in_force: InForce) -> None:
        self.in_force = in_force
        self.invalid = None
        self.store.adopt_passwords({name: user.uid for name, user in in_force.infrastructure.users.items()})
        self.grants.use(in_force.node_plan)
        self.introspection.use(in_force.infrastructure.introspection)

    async def up(self, path: str, text: bytes, report: Report) -> Outcome:
        """Put a declaration in force and make the node follow it.

        Raises:
            DeclarationError: it does not validate, or is not proved; what was in force stays.
            RulesRefusedError: a guest refused its new rules; what was in force stays, everywhere.
        """
        async with self._changing:
            if self.is_down:
                raise OSError("the agent is ending after a `down`: run `vinci up` again")
            candidate = await asyncio.to_thread(derive, self.paths.node, 0, path, text)
            images = await asyncio.to_thread(find_images, self._cache)
            self.guests.use(images)
            self.introspection.use_images(images)
            async with self._passing:
                before = self.in_force
                changes = await self._change_rules(candidate) if before is not None else []
                self._accept(path, text, candidate)
            await self._end_sessions_without_right(before, candidate)  # those that began meanwhile
            outcome = await self.converge(report)
            outcome.changes[:0] = changes
            return outcome

    async def _change_rules(self, candidate: InForce) -> list[str]:
        """New rules in the guests that go on: all of them take theirs, or none. What changed, in sentences."""
        before = self.in_force
        assert before is not None
        changes = declared_changes(before.infrastructure, candidate.infrastructure)

        async def settle() -> None:
            changes.extend(await self._end_what_rests_on(before, candidate))

        labels = before.infrastructure.labels, candidate.infrastructure.labels
        levels, categories = max(len(each.levels) for each in labels), max(len(each.categories) for each in labels)
        between = await asyncio.to_thread(narrowed, before.plan, candidate.plan, self.paths.node, levels, categories)
        if between is None or self._stopping:
            await settle()
            return changes
        changed = await self._reconciler.change(before.node_plan, between, candidate.node_plan, settle)
        return changes + [f"VM {name} got new rules" for name in changed]

    async def _end_what_rests_on(self, before: InForce, after: InForce) -> list[str]:
        """End VMs and sessions that may not outlive a change; called when what ends is gone, and nothing has come yet.

        What the sessions leave in their VMs the next pass ends, or a login that gets one of their UIDs.

        Raises:
            VmmError: a VM cannot be stopped.
        """
        await self.logins.revoke([each for each in self.store.sessions() if not keeps_right(each, before, after)])
        running, changes = await self.running(), []
        for name in must_end(before, after):
            if name in running:
                await self._reconciler.stop(name, "its community has another label")
                changes.append(f"VM {name} stopped: its community has another label")
        return changes

    def _accept(self, path: str, text: bytes, candidate: InForce) -> None:
        """Put a declaration in force that every guest has taken."""
        stored = self.store.declaration()
        if stored is None or stored.text != text:
            version = self.store.accept(path, text, time.time())
            self.audit.record(
                Event.DECLARATION, Severity.NOTICE, f"declaration {path} is in force as version {version}"
            )
        else:
            version = stored.version
        self._stopping = False  # a `down` that failed is overruled
        self._reconciler.restarts.forgive()
        self._use(replace(candidate, version=version))

    async def down(self, report: Report) -> Outcome:
        """Stop everything that the node runs. Disks, passwords and keys stay.

        When a VM cannot be stopped the agent stays, with the node's network and rules, and `down` can be repeated.
        """
        async with self._changing:
            self._stopping = True
            for session in self.store.sessions():
                self.store.close_session(session.id)
            self.store.withdraw()
            outcome = await self._reconciler.stop_all(report)
            if outcome.failures:
                return outcome
            for task in self._watchers.values():
                task.cancel()
            self.in_force = self.invalid = None
            self.audit.record(Event.DECLARATION, Severity.NOTICE, "the infrastructure was taken down")
            self.is_down = True
            return outcome

    async def _end_sessions_without_right(self, before: InForce | None, after: InForce) -> None:
        for session in self.store.sessions():
            if not keeps_right(session, before, after):
                await self.logins.close(after.node_plan, session)

    # -- reconciling -------------------------------------------------------------------------------------------

    def wanted_vms(self) -> list[Vm]:
        """VMs that have to run now: all but stopped ones and dedicated APP-VMs whose user has no session.

        A dedicated APP-VM in quarantine is kept for whoever looks into it.
        """
        if self.in_force is None:
            return []
        in_use = {session.vm for session in self.store.sessions()} | self.incidents.confined
        stopped = self.incidents.stopped
        return [
            vm
            for vm in self.in_force.node_plan.vms
            if (vm.user is None or vm.name in in_use) and vm.name not in stopped
        ]

    async def converge(self, report: Report = _silent) -> Outcome:
        """Compare and do the difference once."""
        self.store.tidy()
        self.incidents.tidy()
        self.guests.given.tidy()
        async with self._passing:
            in_force = self.in_force
            if in_force is None or self._stopping:
                return Outcome()
            outcome = await self._reconciler.converge(in_force.plan.name, in_force.node_plan, self.wanted_vms(), report)
        self._watch_vms()
        if self.logins.has_unfinished:
            self.logins.forget_all_but(await self.running())
            outcome.failures += await self.logins.finish(self.reachable)
        return outcome

    async def run(self) -> None:
        """Keep the node as declared until cancelled: a pass after each event and every few seconds."""
        self._watchers[PACKETS] = asyncio.create_task(watch_packets(self))
        while True:
            self._keep_sweeping()
            try:
                if not self._stopping:
                    await self.converge()
            except Exception as error:  # whatever it was: the next pass is the only thing that can mend it
                _LOG.exception("reconciling failed")
                self.audit.record(Event.OPERATION_FAILED, Severity.ERROR, f"reconciling failed: {error!r}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECONCILE_SECONDS):
                    await self._wake.wait()
            self._wake.clear()

    def _keep_sweeping(self) -> None:
        """Start the sweep, and again should it ever end: nothing stays trusted without it, nor becomes so."""
        sweep = self._watchers.get(SWEEP)
        if sweep is not None and not sweep.done():
            return
        if sweep is not None:
            why = "it was cancelled" if sweep.cancelled() else repr(sweep.exception())
            self.audit.record(Event.OPERATION_FAILED, Severity.ERROR, f"the sweep ended, it is started again: {why}")
        self._watchers[SWEEP] = asyncio.create_task(self.introspection.run())
        self._watchers[SWEEP].add_done_callback(lambda _: self._wake.set())

    @property
    def reachable(self) -> set[str]:
        """VMs whose control channel answered at the last pass."""
        return self._reconciler.reachable

    async def _ensure_vm(self, vm: Vm) -> None:
        if vm.user is not None:
            outcome = await self.converge()
            if vm.name not in self.reachable:  # what else failed in this pass is nothing to this user
                raise ChannelError(
                    next((text for text in outcome.failures if vm.name in text), f"no VM {vm.name} runs")
                )

    async def _release_vm(self, _vm: Vm) -> None:
        self._wake.set()

    def _watch_vms(self) -> None:
        """Listen to what file servers and firewalls deny; VMs that are no longer declared are no longer listened to."""
        if self.in_force is None:
            return
        watchers = {VmKind.FS: watch_file_server, VmKind.FW: watch_firewall}
        watched = {vm.name: watchers[vm.kind] for vm in self.in_force.node_plan.vms if vm.kind in watchers}
        for name in [name for name in self._watchers if name not in watched and name not in (PACKETS, SWEEP)]:
            self._watchers.pop(name).cancel()
        for name, watch in watched.items():
            if name not in self._watchers or self._watchers[name].done():
                self._watchers[name] = asyncio.create_task(watch(self, name))

    def _declared_vms(self) -> dict[str, Vm]:
        return self.in_force.vms if self.in_force is not None else {}

    def _sessions_with_rights(self) -> list[Session]:
        """Sessions whose users the file servers may know: none in a VM that is in quarantine."""
        confined = self.incidents.confined
        return [session for session in self.store.sessions() if session.vm not in confined]

    async def _lift(self, name: str) -> None:
        vm = self._declared_vms().get(name)
        if vm is not None:
            await self._responder.lift(vm)

    def _vm_event(self, event: VmEvent) -> None:
        """Called from libvirt's thread."""
        if event.state is VmState.STOPPED:
            self._loop.call_soon_threadsafe(self._vm_stopped, event.name)

    def _vm_stopped(self, name: str) -> None:
        if self._reconciler.stopped(name) and not self._stopping:
            self.guests.forget(name)
            delay = self._reconciler.restarts.ended(name, self._loop.time())
            when = f"in {delay:.0f} s, as it ends soon after each start" if delay else "at once"
            self.audit.record(
                Event.VM_STOPPED, Severity.WARNING, f"VM {name} ended by itself; it is started again {when}", vm=name
            )
            self._loop.call_later(delay, self._wake.set)

    async def running(self) -> dict[str, RunningVm]:
        """What the VMM says runs now."""
        return await self._reconciler.running()

    # -- questions ---------------------------------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        """Users who are logged in now."""
        return self.store.sessions()

    @contextlib.asynccontextmanager
    async def session(self, user: str, entered: Entrance, purpose: str) -> AsyncIterator[Session]:
        """A session that ends with the block, whatever happens."""
        if self.in_force is None or self._stopping:
            raise ChannelError("nothing is up: no declaration is in force")
        session = await self.logins.open(self.in_force.plan, self.in_force.node_plan, user, entered, purpose)
        try:
            yield session
        finally:
            if self.in_force is not None:
                await asyncio.shield(self.logins.close(self.in_force.node_plan, session))
