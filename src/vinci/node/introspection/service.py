# SPDX-License-Identifier: GPL-2.0-or-later
"""Introspection as the agent uses it: the sweep, what follows when a VM is compromised, and its release."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict

from vinci.images.build import Images
from vinci.introspect.findings import Finding, Look, Verdict
from vinci.model.infrastructure import Introspection, Response
from vinci.node.audit import Audit, Event, Severity
from vinci.node.introspection.assurance import Assurance
from vinci.node.introspection.checker import Checker, command
from vinci.node.introspection.given import Start
from vinci.node.introspection.incidents import Incidents, tampering
from vinci.node.introspection.sweep import Events, Sweep
from vinci.node.paths import NodePaths
from vinci.plan.types import Vm
from vinci.vmm.host import VmHost

_LOG = logging.getLogger(__name__)
Json = dict[str, object]
MAX_NAMED = 3
"""Findings that are named in an audit record; the VM's state has all of its incident."""


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
        given: Callable[[str], Start | None],
        respond: Callable[[Vm, Response], Awaitable[None]],
        lift: Callable[[str], Awaitable[None]],
        ethertypes: Callable[[Vm], tuple[int, ...]],
    ) -> None:
        """
        Args:
            paths, host, images, audit: the node's.
            incidents: the open ones.
            vms: the VMs declared for this node, by name.
            given: what a VM was started with and given since.
            respond: carries a response out; what fails is recorded and tried again by the reconcile loop.
            lift: ends the consequences for a VM whose incident was closed.
            ethertypes: those that are declared for a VM.
        """
        self._empty = paths.root / "empty"
        self._empty.mkdir(mode=0o555, exist_ok=True)
        self._host = host
        self._images = images
        self._audit = audit
        self._incidents = incidents
        self._vms = vms
        self._respond = respond
        self._lift = lift
        self._responses: dict[str, asyncio.Task[None]] = {}
        events = Events(self._changed, self._found, self._checker_failed)
        self._sweep = Sweep(
            host,
            self._start_checker,
            vms,
            given,
            lambda: self._images.digest,
            lambda: incidents.vms,
            events,
            ethertypes,
        )

    async def run(self) -> None:
        """Sweep until cancelled."""
        await self._sweep.run()

    def use(self, settings: Introspection) -> None:
        """Sweep by these settings from now on."""
        self._sweep.settings = settings

    def use_images(self, images: Images) -> None:
        """VMs are started from these images from now on: what still runs from others is unchecked."""
        self._images = images

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
            "incident_findings": self._incidents.findings(vm),
            "releasable": state.releasable if state else incident is not None and self._host.instance(vm) is None,
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
        if vm in self._responses:
            await asyncio.wait([self._responses[vm]])  # or what it takes away would come after what the release gives
        await self._sweep.look_now(vm)
        state = self._sweep.state(vm)
        # One that does not run is looked at when it has been started anew.
        if state is None and self._host.instance(vm) is not None:
            raise ReleaseError(f"VM {vm} is not released: it runs, and could not be looked at")
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

    def _found(self, name: str, look: Look) -> None:
        vm = self._vms().get(name)
        incident = self._incidents.of(name)
        if incident is not None:
            if more := self._incidents.add(name, look):
                text = f"VM {name} is compromised in more ways: {in_words(more)}"
                self._audit.record(Event.VM_COMPROMISED, Severity.ALERT, text, vm=name, response=incident.response)
        elif vm is not None:
            self._incidents.open(vm, look)
            self._audit.record(
                Event.VM_COMPROMISED,
                Severity.ALERT,
                f"VM {name} is compromised: {summary(look)}; response: {vm.response}",
                vm=name,
                response=vm.response.value,
            )
            # Not waited for: meanwhile the other VMs are looked at.
            self._responses[name] = asyncio.create_task(self._answer(vm))

    async def _answer(self, vm: Vm) -> None:
        try:
            await self._respond(vm, vm.response)
        except Exception as error:  # the reconcile loop does what the incident asks for
            _LOG.exception("the response to VM %s failed", vm.name)
            text = f"the response {vm.response} to VM {vm.name} failed, it is tried again: {error!r}"
            self._audit.record(Event.OPERATION_FAILED, Severity.ERROR, text, vm=vm.name)
        finally:
            self._responses.pop(vm.name, None)

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
    return in_words(tampering(look))


def in_words(found: Sequence[Finding]) -> str:
    """The first of some findings, in a sentence."""
    texts = [f"{finding.what} ({finding.where})" if finding.where else finding.what for finding in found]
    more = f", and {len(texts) - MAX_NAMED} more" if len(texts) > MAX_NAMED else ""
    return "; ".join(texts[:MAX_NAMED]) + more


def look_json(look: Look) -> Json:
    """A look as plain data."""
    return {**asdict(look), "verdict": look.verdict.value}
