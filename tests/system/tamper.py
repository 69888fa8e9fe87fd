# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes a running VM's memory from outside, as an attacker with the guest's kernel would from inside."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installation import Installation

from vinci.images.build import find_images
from vinci.introspect.attach import anchors
from vinci.introspect.memory import GuestMemory, Region
from vinci.introspect.profile import ensure_profile
from vinci.node.paths import images_directory
from vinci.vmm.instance import instance_of, open_ram

SELINUX_ENFORCING = "selinux_state"
"""The first byte of this variable says whether SELinux enforces."""


@contextmanager
def changed_text(installation: Installation, vm: str, function: str = "kernel_kexec") -> Iterator[None]:
    """One byte of a kernel function's text is another one in the block; of one that an idle guest does not run."""
    with changed_byte(installation, vm, function, 0xFF):
        yield


@contextmanager
def changed_byte(installation: Installation, vm: str, symbol: str, bits: int) -> Iterator[None]:
    """Some bits of the first byte of a function or variable of the kernel's image are others in the block."""
    memory_mib = next(v["memory_mib"] for v in installation.status()["vms"] if v["name"] == vm)
    instance = instance_of(installation.state / "n1" / "libvirt" / "run" / "qemu" / f"{vm}.pid")
    assert instance is not None
    profile = ensure_profile(find_images(images_directory()))
    read_only = open_ram(instance, memory_mib)
    file = os.open(Path("/proc/self/fd") / str(read_only), os.O_RDWR)
    os.close(read_only)
    with mmap.mmap(file, 0) as ram:
        os.close(file)
        memory = GuestMemory(bytes(ram), (Region(0, len(ram), 0),))  # all below the PCI hole
        (text,) = anchors(memory, profile)
        at = profile.symbols[symbol] - profile.start + text
        ram[at] ^= bits
        try:
            yield
        finally:
            ram[at] ^= bits
