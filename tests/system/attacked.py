# SPDX-License-Identifier: GPL-2.0-or-later
"""A private copy of a running VM's memory, to be changed as an attacker would; the VM itself goes on unharmed."""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from seen_vm import Seen, monitor

from vinci.introspect.address_spaces import check_address_spaces
from vinci.introspect.attach import AddressSpace
from vinci.introspect.executable import check_executable_pages
from vinci.introspect.findings import Finding
from vinci.introspect.guest import Guest
from vinci.introspect.kernel_text import check_rodata, check_text
from vinci.introspect.loaded import LoadedModule, listed, plausible
from vinci.introspect.memory import GuestMemory
from vinci.introspect.modules import check_modules
from vinci.introspect.paging import LARGE
from vinci.introspect.place import check_place
from vinci.introspect.registers import Processor, parse_registers

CHECKS = (check_place, check_text, check_rodata, check_address_spaces, check_executable_pages, check_modules)
"""Those of the kernel itself."""


@dataclass
class Attacked:
    """A guest over a private copy of a VM's memory."""

    guest: Guest
    ram: mmap.mmap

    def poke(self, address: int, content: bytes) -> bytes:
        """Change what is at a kernel address; what was there."""
        before = self.guest.read(address, len(content))
        for number, byte in enumerate(content):
            self.guest.memory.view(self.guest.physical(address + number), 1)[0] = byte
        return before

    def word(self, address: int, value: int) -> None:
        self.poke(address, struct.pack("<Q", value & 0xFFFF_FFFF_FFFF_FFFF))

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        for check in CHECKS:
            self.guest.begin()
            found += check(self.guest).findings
        return found

    def module(self, name: str) -> LoadedModule:
        return next(m for m in plausible(self.guest, set(listed(self.guest))) if m.name == name)

    def page_entry(self, address: int, level: int = 1) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """The last page table entry of a kernel address, or that of a level above, to be changed in place."""
        space: AddressSpace = self.guest.space
        entry = np.array([space.root], np.uint64)
        for depth in range(space.levels, level - 1, -1):
            index = address >> (12 + 9 * (depth - 1)) & 511
            frame = self.guest.memory.frames_of(entry & np.uint64(0x000F_FFFF_FFFF_F000))[0]
            entry = self.guest.memory.tables[frame, index : index + 1]
            if depth <= 3 and int(entry[0]) & LARGE:
                break
        return entry


def now(seen: Seen) -> tuple[Processor, ...]:
    """The processors as they are now."""
    return parse_registers(seen.registers())


def private(seen: Seen) -> Attacked:
    with (seen.machine.console.parent / "ram").open("rb") as file:
        ram = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    memory = GuestMemory(ram, seen.guest.memory.regions)
    processors, verified = now(seen), dict(seen.guest.verified)
    guest = replace(seen.guest, memory=memory, processors=processors, verified=verified)
    guest.begin()
    return Attacked(guest, ram)


@contextlib.contextmanager
def halted(seen: Seen) -> Iterator[None]:
    """While it does not run it changes nothing that the test has not changed."""
    path = seen.machine.console.parent / "qmp"
    seen.runner.run(monitor(path, "stop"))
    try:
        yield
    finally:
        seen.runner.run(monitor(path, "cont"))
