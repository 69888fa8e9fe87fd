# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries out what is declared for a compromised VM, at once; the reconcile loop keeps it so.

What has to hold follows from the open incidents alone: the reconcile loop asks them at each pass. Here the same is
done without waiting for a pass, which may be busy booting a VM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vinci.model.infrastructure import Response
from vinci.node.audit import Audit, Event, Severity
from vinci.node.grants import Grants
from vinci.node.network import NodeNetwork
from vinci.node.reconcile import Reconciler
from vinci.plan.types import Vm
from vinci.vmm.host import VmmError


class Responder:
    """Acts on the network, the file servers and the VM itself."""

    def __init__(
        self, network: NodeNetwork, grants: Grants, reconciler: Reconciler, audit: Audit, wake: Callable[[], None]
    ) -> None:
        self._network = network
        self._grants = grants
        self._reconciler = reconciler
        self._audit = audit
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()

    async def respond(self, vm: Vm, response: Response) -> None:
        """Do what `response` asks for. Its incident is open already."""
        if response is Response.ALERT:
            return
        try:
            await asyncio.to_thread(self._cut, vm)
            self._audit.record(
                Event.VM_QUARANTINED,
                Severity.ALERT,
                f"VM {vm.name} is in quarantine: its ports pass nothing, its users' rights on files are revoked",
                vm=vm.name,
            )
            if response is Response.STOP:
                await self._reconciler.stop(vm.name, "it is compromised; it starts again when it has been released")
        except (OSError, VmmError) as error:
            text = f"the response {response} to VM {vm.name} is not complete, it is tried again: {error}"
            self._audit.record(Event.OPERATION_FAILED, Severity.ERROR, text, vm=vm.name)
        self._revoke_in_background()
        self._wake()

    async def lift(self, vm: Vm) -> None:
        """Give a released VM back what was taken. Its incident is closed already."""
        try:
            await asyncio.to_thread(self._reconnect, vm)
        except OSError as error:
            text = f"the ports of VM {vm.name} are still cut, it is tried again: {error}"
            self._audit.record(Event.OPERATION_FAILED, Severity.ERROR, text, vm=vm.name)
        self._revoke_in_background()
        self._wake()

    def _cut(self, vm: Vm) -> None:
        for nic in vm.nics:
            self._network.quarantine(nic.tap)

    def _reconnect(self, vm: Vm) -> None:
        for nic in vm.nics:
            self._network.release(nic.tap)

    async def _revoke(self) -> None:
        """Let every file server know who has rights now. One that does not answer gets its table later."""
        for error in await self._grants.deliver_all():
            self._audit.record(Event.OPERATION_FAILED, Severity.ERROR, f"grants (tried again): {error}")

    def _revoke_in_background(self) -> None:
        # A dead file server must not hold up the looks at other VMs.
        task = asyncio.create_task(self._revoke())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
