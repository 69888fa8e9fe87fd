# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether KVM works on this machine: found out once by booting the guests' kernel with it.

`/dev/kvm` may exist and be useless (nested virtualisation that emulates each kernel instruction), and libvirt offers
it all the same (facts/runtime.md). So only a kernel that booted counts.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from pathlib import Path

from vinci.images.build import Images
from vinci.vmm.domain import Accelerator

PROBE_SECONDS = 6.0
_MARK = b"Kernel panic - not syncing"
"""Without a root file system a kernel that runs gets this far in well under a second on KVM."""


def choose_accelerator(images: Images, cache: Path) -> Accelerator:
    """KVM when it boots the guests' kernel within a few seconds, else TCG. The answer is remembered in `cache`."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator.TCG
    machine = f"{platform.release()} {images.digest} {Path('/proc/sys/kernel/random/boot_id').read_text()}"
    answer = cache / f"accelerator-{hashlib.sha256(machine.encode()).hexdigest()[:16]}"
    if answer.exists():
        return Accelerator(answer.read_text())
    accelerator = Accelerator.KVM if _kvm_boots(images.kernel) else Accelerator.TCG
    answer.write_text(accelerator.value)
    return accelerator


def _kvm_boots(kernel: Path) -> bool:
    command = [
        *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-m", "128", "-accel", "kvm"),
        *("-machine", "q35", "-cpu", "host", "-serial", "stdio", "-kernel", str(kernel)),
        *("-append", "console=ttyS0 panic=-1"),
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return False
    return _MARK in done.stdout
