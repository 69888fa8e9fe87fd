# SPDX-License-Identifier: GPL-2.0-or-later
"""Two raw QEMU machines for the tests of the file service: an FS-VM, and a VM whose network namespaces are clients.

No libvirt, no agent: the guest images, the commands in them and the module are what is tested. The wires between the
two machines are Unix sockets of QEMU's, so nothing of the host's network is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from vinci.images.build import Images
from vinci.node.channel import Channel, ChannelError, Result
from vinci.plan.types import VmKind
from vinci.vmm.domain import BASE_CMDLINE, SELINUX_CMDLINE

BOOT_SECONDS = 120.0
EXIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Wire:
    """One machine's end of a leg: the cards (MAC, address/prefix) on it. Several cards share the wire through a hub."""

    path: Path
    end: str
    cards: tuple[tuple[str, str], ...]


@dataclass
class Machine:
    """A running VM and its control channel."""

    name: str
    process: asyncio.subprocess.Process
    channel: Channel
    command: Sequence[str]
    console: Path

    async def sh(self, script: str, stdin: bytes = b"", seconds: float = 60.0) -> Result:
        """Run a shell script as root."""
        return await self.channel.run(script, stdin, seconds)

    async def ok(self, script: str, stdin: bytes = b"", seconds: float = 60.0) -> str:
        """Run a shell script that has to succeed; its output."""
        result = await self.sh(script, stdin, seconds)
        if result.status != 0:
            raise AssertionError(
                f"{self.name}: {script!r} -> {result.status}: {result.text}{result.untrusted_stderr!r}"
            )
        return result.text

    async def put(self, path: str, content: bytes, mode: str = "0755") -> None:
        """Write a file into the guest."""
        await self.ok(f"mkdir -p $(dirname {path}) && cat >{path} && chmod {mode} {path}", content)

    async def kill(self) -> None:
        """Cut the power."""
        self.channel.close()
        if self.process.returncode is None:
            self.process.kill()
        await asyncio.wait_for(self.process.wait(), EXIT_SECONDS)


@dataclass
class Rig:
    """Starts machines in a directory of its own; closing it leaves nothing behind."""

    images: Images
    folder: Path
    key: asyncssh.SSHKey = field(default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519"))
    machines: list[Machine] = field(default_factory=list)

    async def boot(
        self,
        name: str,
        kind: str,
        wires: Iterable[Wire],
        memory_mib: int,
        files: dict[str, bytes] | None = None,
        disk: Path | None = None,
        *,
        selinux: bool = True,
    ) -> Machine:
        """Start a VM and wait until its control channel answers; without SELinux an FS- or APP-VM fails to come up."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        wires = list(wires)
        nics = " ".join(f"{mac},{address}" for wire in wires for mac, address in wire.cards)
        given = {
            "env": f'VINCI_KIND={kind}\nVINCI_HOSTNAME={name}\nVINCI_NICS="{nics}"\nVINCI_ROUTES=""\n'.encode(),
            "authorized_keys": self.key.export_public_key(),
            "ssh_host_ed25519_key": self.key.export_private_key(),
            **(files or {}),
        }
        command = self._command(name, kind, wires, memory_mib, disk, selinux)
        for key, content in given.items():
            path = folder / key
            path.touch(mode=0o600)
            path.write_bytes(content)
            command += ["-fw_cfg", f"name=opt/org.vinci/{key},file={path}"]
        return await self.start(name, command)

    async def start(self, name: str, command: Sequence[str]) -> Machine:
        """Start a VM by its complete command line (also once more, after a power cut)."""
        folder = self.folder / name
        (folder / "ssh").unlink(missing_ok=True)
        with (folder / "qemu.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stderr=log)
        channel = Channel(name, folder / "ssh", self.key, self.key)
        machine = Machine(name, process, channel, command, folder / "console")
        self.machines.append(machine)
        try:
            await channel.open(BOOT_SECONDS)
        except ChannelError as error:
            console = (folder / "console").read_text(errors="replace")[-3000:]
            raise AssertionError(f"{error}\n{console}\n{(folder / 'qemu.log').read_text()}") from error
        return machine

    def _command(
        self, name: str, kind: str, wires: list[Wire], memory_mib: int, disk: Path | None, selinux: bool
    ) -> list[str]:
        folder = self.folder / name
        root = self.images.app_root if kind == "APP" else self.images.service_root
        cmdline = f"{BASE_CMDLINE} mitigations=off {SELINUX_CMDLINE[VmKind[kind]] if selinux else 'selinux=0'}"
        command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35", "-cpu", "max"]
        command += ["-accel", "tcg,tb-size=64", "-m", str(memory_mib), "-smp", "1"]
        command += ["-name", f"{name},debug-threads=on"]
        command += ["-kernel", str(self.images.kernel), "-initrd", str(self.images.initramfs), "-append", cmdline]
        command += ["-drive", f"if=none,id=root,readonly=on,format=raw,file={root}"]
        command += ["-device", "virtio-blk-pci,drive=root,serial=root"]
        if disk:
            command += ["-drive", f"if=none,id=data,format=raw,cache=writeback,file={disk}"]
            command += ["-device", "virtio-blk-pci,drive=data,serial=data"]
        command += ["-chardev", f"file,id=console,path={folder / 'console'},append=on", "-serial", "chardev:console"]
        command += ["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"]
        command += ["-chardev", f"socket,id=ssh,server=on,wait=off,path={folder / 'ssh'}"]
        command += ["-device", "virtserialport,chardev=ssh,name=org.vinci.ssh"]
        for number, wire in enumerate(wires):
            other = "b" if wire.end == "a" else "a"
            # datagrams: either end may come and go, as a cable's
            command += ["-netdev", f"dgram,id=up{number},local.type=unix,local.path={wire.path}.{wire.end}"]
            command[-1] += f",remote.type=unix,remote.path={wire.path}.{other}"
            command += ["-netdev", f"hubport,id=hub{number},hubid={number},netdev=up{number}"]
            for card, (mac, _) in enumerate(wire.cards):
                command += ["-netdev", f"hubport,id=n{number}c{card},hubid={number}"]
                command += ["-device", f"virtio-net-pci,netdev=n{number}c{card},mac={mac}"]
        return command

    async def close(self) -> None:
        """End all machines and remove their files."""
        for machine in self.machines:
            with contextlib.suppress(ProcessLookupError):
                await machine.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
