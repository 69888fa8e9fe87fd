# SPDX-License-Identifier: GPL-2.0-or-later
"""Introspection as the agent uses it: the sweep, what follows when a VM is compromised, and its release."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict

from vinci.images.build import Images
from vinci.introspect.findings import Look, Verdict
from vinci.model.infrastructure import Introspection, Response
from vinci.node.audit import Audit, Event, Severity
from vinci.node.introspection.assurance import Assurance
from vinci.node.introspection.checker import Checker, command
from vinci.node.introspection.incidents import Incidents
from vinci.node.introspection.sweep import Events, Sweep
from vinci.node.paths import NodePaths
from vinci.plan.types import Vm
from vinci.vmm.host import VmHost

Json = dict[str, object]
MAX_NAMED = 3
"""Findings that are named in an audit record; all of them are in the VM's state."""


class ReleaseError(Exception):
    """A VM cannot be released now; the text says why."""


class IntrospectionService:
    """Watches the node's VMs and acts as declared."""

    def __init__(
        self,
        paths: NodePaths,
        host: VmHost,
        images: Images,
        audit: Audit,
        incidents: Incidents,
        vms: Callable[[], Mapping[str, Vm]],
        came_up: Callable[[str], bool],
        respond: Callable[[Vm, Response], Awaitable[None]],
        lift: Callable[[str], Awaitable[None]],
        policies: Callable[[str], tuple[bytes, ...]],
    ) -> None:
        """
        Args:
            paths, host, images, audit: the node's.
            incidents: the open ones.
            vms: the VMs declared for this node, by name.
            came_up: whether a VM has booted.
            respond: carries a response out; what fails is recorded and tried again by the reconcile loop.
            policies: the SELinux policies that may be in force in a VM.
            lift: ends the consequences for a VM whose incident was closed.
        """
        self._empty = paths.root / "empty"
        self._empty.mkdir(mode=0o555, exist_ok=True)
        self._images = images
        self._audit = audit
        self._incidents = incidents
        self._vms = vms
        self._respond = respond
        self._lift = lift
        events = Events(self._changed, self._compromised, self._checker_failed)
        self._sweep = Sweep(host, self._start_checker, vms, came_up, lambda: incidents.vms, events, policies)

    async def run(self) -> None:
        """Sweep until cancelled."""
        await self._sweep.run()

    def use(self, settings: Introspection) -> None:
        """Sweep by these settings from now on."""
        self._sweep.settings = settings

    async def use_images(self, images: Images) -> None:
        """VMs are started from these images from now on: their profile counts."""
        if images.digest != self._images.digest:
            self._images = images
            await self._sweep.renew_checker()

    async def look(self, vm: str) -> Look:
        """Look at a VM now."""
        return await self._sweep.look_now(vm)

    def verdict(self, vm: str) -> Verdict:
        """What holds for a VM."""
        state = self._sweep.state(vm)
        if state is not None:
            return state.verdict
        return Verdict.COMPROMISED if self._incidents.of(vm) else Verdict.UNCHECKED

    def state_of(self, vm: str) -> Json:
        """What is known of a VM, as plain data."""
        state, incident = self._sweep.state(vm), self._incidents.of(vm)
        look = state.look if state else None
        reason = state.reason if state else "it does not run"
        return {
            "verdict": self.verdict(vm).value,
            "observed": (state.observed if state else Verdict.UNCHECKED).value,
            "reason": reason,
            "checked_seconds_ago": self._age(state) if look else None,
            "look": look_json(look) if look else None,
            "response": incident.response if incident else None,
            "incident_began": incident.began if incident else None,
            "releasable": state.releasable if state else incident is not None,
        }

    @property
    def checker_pid(self) -> int | None:
        """The process id of the checker, while one runs."""
        return self._sweep.checker_pid

    async def release(self, vm: str, reason: str, administrator: str) -> None:
        """End an incident by the word of an administrator, after a whole clean look.

        Raises:
            ReleaseError: there is none, or its VM is not clean.
        """
        incident = self._incidents.of(vm)
        if incident is None:
            raise ReleaseError(f"there is nothing to release: VM {vm} has no incident")
        if self._sweep.state(vm) is not None:  # one that does not run is looked at when it has been started anew
            await self._sweep.look_now(vm)
        state = self._sweep.state(vm)
        if state is not None and not state.releasable:
            raise ReleaseError(f"VM {vm} is not released: {_why_not(state)}")
        self._audit.record(
            Event.VM_RELEASED,
            Severity.NOTICE,
            f"{administrator} released VM {vm} from {incident.response}: {reason}",
            vm=vm,
            administrator=administrator,
            reason=reason,
        )
        try:
            self._incidents.close(vm)
        except sqlite3.Error as error:
            raise ReleaseError(f"VM {vm} is not released, the disk does not take it: {error}") from error
        if state is not None and self._sweep.state(vm) is not None:
            self._sweep.release(vm)
        await self._lift(vm)

    # -- what the sweep tells --------------------------------------------------------------------------------------

    async def _start_checker(self) -> Checker:
        return await Checker.start(command(self._images, self._empty))

    async def _compromised(self, name: str, look: Look) -> None:
        vm = self._vms()[name]
        self._audit.record(
            Event.VM_COMPROMISED,
            Severity.ALERT,
            f"VM {name} is compromised: {summary(look)}; response: {vm.response}",
            vm=name,
            response=vm.response.value,
        )
        self._incidents.open(vm, look)
        await self._respond(vm, vm.response)

    def _changed(self, name: str, before: Assurance, after: Assurance) -> None:
        if after.verdict is Verdict.TRUSTED:
            self._audit.record(Event.VM_TRUSTED, Severity.INFO, f"VM {name} is trusted", vm=name)
        elif after.verdict is Verdict.UNCHECKED:
            text = f"VM {name} is unchecked, hence not trusted: {after.reason}"
            self._audit.record(Event.VM_UNCHECKED, Severity.WARNING, text, vm=name, reason=after.reason)
        elif after.verdict is Verdict.UNREACHABLE:
            text = f"the memory or processors of VM {name} cannot be read, hence it is not trusted: {after.reason}"
            self._audit.record(Event.VM_UNREACHABLE, Severity.WARNING, text, vm=name, reason=after.reason)

    def _checker_failed(self, reason: str) -> None:
        self._audit.record(Event.CHECKER_FAILED, Severity.ERROR, f"{reason}; it is started again", reason=reason)

    def _age(self, state: Assurance | None) -> float | None:
        return None if state is None else round(asyncio.get_running_loop().time() - state.since, 3)


def _why_not(state: Assurance) -> str:
    if state.observed is Verdict.COMPROMISED and state.look is not None:
        return f"it is still compromised ({summary(state.look)}); restart it, or mend it, first"
    return f"it has not passed a whole clean look since it was found compromised ({state.reason or state.observed})"


def summary(look: Look) -> str:
    """The first findings, in a sentence."""
    found = [f"{f.what} ({f.where})" if f.where else f.what for row in look.results for f in row.findings]
    found = [f"{row.check} failed: {row.error}" for row in look.results if row.error is not None] + found
    more = f", and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return "; ".join(found[:MAX_NAMED]) + more


def look_json(look: Look) -> Json:
    """A look as plain data."""
    return {**asdict(look), "verdict": look.verdict.value}
