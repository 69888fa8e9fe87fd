# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM of the file service's rig whose memory the test maps, to look at it from outside and to change it there."""

from __future__ import annotations

import asyncio
import json
import mmap
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_rig.rig import Machine, Rig, Wire

from vinci.images.build import Images
from vinci.introspect.attach import attach
from vinci.introspect.guest import Guest
from vinci.introspect.memory import GuestMemory, parse_regions
from vinci.introspect.profile import Profile

_WAIT_SECONDS = 30.0


class SeenRig(Rig):
    """Machines with their RAM in a file, and a QMP socket; `words` end the kernel's command line."""

    words = ""

    def _command(self, name: str, kind: str, wires: list[Wire], memory_mib: int, *rest: Any) -> list[str]:
        folder = self.folder / name
        backend = f"memory-backend-file,id=pc.ram,size={memory_mib}M,mem-path={folder / 'ram'},share=on"
        command = super()._command(name, kind, wires, memory_mib, *rest)
        command[command.index("-append") + 1] += f" {self.words}"
        command[command.index("-smp") + 1] = "2"  # what one processor changes the other, and the checks, see half done
        command += ["-object", backend, "-machine", "memory-backend=pc.ram"]
        return [*command, "-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"]


@dataclass
class Seen:
    """A running VM, attached to."""

    runner: asyncio.Runner
    machine: Machine
    guest: Guest
    ram: mmap.mmap

    def run(self, work: Coroutine[Any, Any, str]) -> str:
        """Wait for something that happens in the VM."""
        return self.runner.run(work)

    def sh(self, script: str) -> str:
        """Run a script as root; its output."""
        return self.run(self.machine.ok(script))

    def registers(self) -> str:
        """The processors' registers of now, as the agent asks for them."""
        (text,) = self.runner.run(monitor(self.machine.console.parent / "qmp", "info registers -a"))
        return text

    def poke(self, address: int, content: bytes) -> bytes:
        """Change the guest's memory behind its back; what was there."""
        at = self.guest.physical(address)
        offset = next(
            region.offset + at - region.physical
            for region in self.guest.memory.regions
            if region.physical <= at < region.physical + region.size
        )
        before = self.ram[offset : offset + len(content)]
        self.ram[offset : offset + len(content)] = content
        return before

    def poke_words(self, address: int, *words: int) -> bytes:
        """Change 64-bit words; the bytes that were there."""
        return self.poke(address, struct.pack(f"<{len(words)}Q", *words))


def boot_seen(
    runner: asyncio.Runner, images: Images, profile: Profile, folder: Path, kind: str, words: str = "", **how: Any
) -> tuple[SeenRig, Seen]:
    """Boot a VM and attach to it; nothing is left when that fails. `how` goes to `Rig.boot`.

    `words` are added to the kernel's command line.
    """
    rig = SeenRig(images, folder)
    rig.words = words
    try:
        wires = [Wire(folder / "wire", "a", (("02:56:0a:14:01:0a", "10.20.1.10/24"),))]
        machine = runner.run(rig.boot(kind.lower(), kind, wires, 320, **how))
        registers, tree = runner.run(monitor(folder / kind.lower() / "qmp", "info registers -a", "info mtree -f"))
        with (folder / kind.lower() / "ram").open("r+b") as file:
            ram = mmap.mmap(file.fileno(), 0)
        guest = attach(GuestMemory(ram, parse_regions(tree)), registers, profile)
    except BaseException:
        runner.run(rig.close())
        raise
    return rig, Seen(runner, machine, guest, ram)


async def monitor(path: Path, *commands: str) -> list[str]:
    """The answers of QEMU's monitor to some of its commands."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    try:
        await reader.readline()
        answers = []
        for command in ("", *commands):
            asked = {"command-line": command}
            request = (
                {"execute": "human-monitor-command", "arguments": asked} if command else {"execute": "qmp_capabilities"}
            )
            writer.write(json.dumps(request).encode() + b"\n")
            while "return" not in (answer := json.loads(await asyncio.wait_for(reader.readline(), _WAIT_SECONDS))):
                assert "error" not in answer, answer
            answers.append(answer["return"])
        return answers[1:]
    finally:
        writer.close()
