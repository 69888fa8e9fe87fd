# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest gets to boot from, and the channel into it once it runs."""

from __future__ import annotations

import grp
import os
from collections.abc import Mapping
from pathlib import Path

import asyncssh

from vinci.images.build import Images
from vinci.node.channel import Channel
from vinci.node.introspection.given import Given
from vinci.node.owners import Owners
from vinci.node.paths import NodePaths
from vinci.plan.types import Disk, Vm, VmKind
from vinci.store.sqlite import Store
from vinci.vmm.accelerator import known_tsc_khz
from vinci.vmm.domain import BootFiles, boot_environment

CLIENT_KEY = "ssh-client"
KVM_GROUP = "kvm"


class Guests:
    """Keys, boot files and channels of all VMs of one node."""

    def __init__(self, paths: NodePaths, store: Store, images: Images) -> None:
        self._paths = paths
        self._store = store
        self._images = images
        self._client_key = self._key(CLIENT_KEY)
        self._channels: dict[str, Channel] = {}
        self.given = Given(store)
        for folder in (paths.root, paths.root / "boot", paths.disks, paths.sockets):
            _directory(folder)
        self._owners = Owners(paths.sockets)

    def channel(self, vm: str) -> Channel:
        """The control channel of a VM; the same object until the VM is forgotten."""
        if vm not in self._channels:
            self._channels[vm] = Channel(vm, self._paths.ssh_socket(vm), self._client_key, self._key(f"host:{vm}"))
        return self._channels[vm]

    def forget(self, vm: str) -> None:
        """Drop a VM's channel: the VM ended or is about to."""
        channel = self._channels.pop(vm, None)
        if channel is not None:
            channel.close()

    def prepare(self, vm: Vm, extra: Mapping[str, bytes]) -> BootFiles:
        """Write the files that `vm` boots from; `extra` are further fw_cfg files by name (policy, rules …)."""
        owner = self._owners.of(vm.name)
        folder = self._paths.boot(vm.name)
        _directory(folder)
        public = self._client_key.export_public_key()
        files = {
            "env": boot_environment(vm).encode(),
            "authorized_keys": public,
            "ssh_host_ed25519_key": self._key(f"host:{vm.name}").export_private_key(),
            **extra,
        }
        self.given.starts(vm.name, self._images.digest, extra.get("policy"))
        for name, content in files.items():
            _write(folder / name, content, owner)
        ssh, console = self._paths.ssh_socket(vm.name), self._paths.console_socket(vm.name)
        for stale in (ssh, console):
            stale.unlink(missing_ok=True)
        return BootFiles(
            kernel=self._images.kernel,
            initramfs=self._images.initramfs,
            root=self._images.app_root if vm.kind is VmKind.APP else self._images.service_root,
            image_digest=self._images.digest,
            disk=self._disk(vm.disk, owner) if vm.disk else None,
            fw_cfg=tuple((name, folder / name) for name in sorted(files)),
            ssh_socket=ssh,
            console_socket=console,
            owner=owner,
            kvm_group=_group(KVM_GROUP),
            tsc_khz=known_tsc_khz(Path("/proc/cpuinfo").read_text()),
        )

    def use(self, images: Images) -> None:
        """Start VMs from these images from now on."""
        self._images = images

    @property
    def images(self) -> Images:
        """The images that VMs are started from."""
        return self._images

    @property
    def image_digest(self) -> str:
        """The digest of the images that VMs are started from."""
        return self._images.digest

    def _disk(self, disk: Disk, owner: int) -> Path:
        path = self._paths.disks / disk.name
        size = disk.size_mib * 1024 * 1024
        if not path.exists():
            with path.open("xb") as file:
                file.truncate(size)
        elif path.stat().st_size < size:
            os.truncate(path, size)
        path.chmod(0o600)
        os.chown(path, owner, owner)
        return path

    def _key(self, name: str) -> asyncssh.SSHKey:
        private = self._store.key(name)
        if private is None:
            key = asyncssh.generate_private_key("ssh-ed25519", comment=f"vinci {name}")
            self._store.set_key(name, key.export_private_key())
            return key
        return asyncssh.import_private_key(private)


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _directory(path: Path) -> None:
    """A folder of root's, through which each VM's user gets to what is its own."""
    path.mkdir(mode=0o711, parents=True, exist_ok=True)
    os.chown(path, 0, 0)
    path.chmod(0o711)


def _write(path: Path, content: bytes, owner: int) -> None:
    """A file that its owner and root may read, at no moment anybody else."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400), "wb") as file:
        file.write(content)
        os.fchown(file.fileno(), owner, owner)
    temporary.replace(path)
