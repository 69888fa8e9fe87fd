# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent gives to an administrator who looks into a VM: where its memory is, its registers, and a signature.

The memory itself goes from the VM to the administrator's command, which is root, and not through the agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncssh

from vinci.images.build import Images
from vinci.plan.types import Vm
from vinci.store.sqlite import Store
from vinci.vmm.host import VmHost, VmmError

NAMESPACE = "vinci-evidence"
"""Of the signatures (ssh-keygen(1), -Y): what is signed with this key for another purpose is no evidence."""
KEY = "evidence"


class Evidence:
    """The node's key for evidence, and access to its VMs' memory."""

    def __init__(self, store: Store, host: VmHost, node: str) -> None:
        private = store.key(KEY)
        if private is None:
            private = asyncssh.generate_private_key(
                "ssh-ed25519", comment=f"vinci evidence {node}"
            ).export_private_key()
            store.set_key(KEY, private)
        self._key = asyncssh.import_private_key(private)
        self._host = host
        self.paused: set[str] = set()
        """VMs that an investigator holds; the reconcile loop lets all others go on."""

    @property
    def public_key(self) -> str:
        """In OpenSSH's form. An administrator notes it before it is needed."""
        return self._key.export_public_key().decode().strip()

    def sign(self, manifest: bytes) -> str:
        """A detached signature as `ssh-keygen -Y sign` makes it."""
        return asyncssh.create_sshsig(self._key, manifest, namespace=NAMESPACE).decode()

    async def attachment(self, vm: Vm, images: Images) -> dict[str, object]:
        """All that is needed to read a VM's memory, for root on this machine.

        Raises:
            VmmError: it does not run, or its monitor does not answer.
        """
        instance = self._host.instance(vm.name)
        if instance is None:
            raise VmmError(f"VM {vm.name} does not run")
        return {
            "vm": vm.name,
            "kind": vm.kind.value,
            "pid": instance.pid,
            "started": instance.started,
            "memory_mib": vm.memory_mib,
            "registers": await asyncio.to_thread(self._host.monitor, vm.name, "info registers -a"),
            "mtree": await asyncio.to_thread(self._host.monitor, vm.name, "info mtree -f"),
            "images": str(images.kernel.parent),
        }

    @asynccontextmanager
    async def held(self, name: str, pause: bool) -> AsyncIterator[None]:
        """Freeze a VM for the block, if asked to; a killed agent's successor lets it go on.

        Raises:
            VmmError: it cannot be frozen.
        """
        if not pause:
            yield
            return
        if name in self.paused:
            raise VmmError(f"VM {name} is held by another investigator")
        self.paused.add(name)
        try:
            await asyncio.to_thread(self._host.suspend, name)
            yield
        finally:
            self.paused.discard(name)
            await asyncio.to_thread(self._host.resume, name)
