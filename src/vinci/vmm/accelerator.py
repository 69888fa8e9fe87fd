# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether KVM works on this machine: found out once by booting the guests' kernel with it.

`/dev/kvm` may exist and be useless (nested virtualisation that emulates each kernel instruction), and libvirt offers
it all the same (facts/runtime.md). So only a kernel that booted counts.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
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
    known = remembered(answer)
    if known is not None:
        return known
    accelerator = Accelerator.KVM if _kvm_boots(images.kernel) else Accelerator.TCG
    answer.write_text(accelerator.value)
    return accelerator


def remembered(answer: Path) -> Accelerator | None:
    """An answer found out before; None when there is none, or only what a crash left of it."""
    try:
        return Accelerator(answer.read_text())
    except (FileNotFoundError, ValueError):
        return None


def known_tsc_khz(cpuinfo: str) -> int | None:
    """The frequency of the time stamp counter by /proc/cpuinfo, in kHz; None where that does not tell it for certain.

    It does in a VM whose hypervisor has told the frequency: its processors have no other one, and nobody measured it.
    """
    fields = dict(line.split(":", 1) for line in cpuinfo.partition("\n\n")[0].splitlines() if ":" in line)
    found = {name.strip(): text.strip() for name, text in fields.items()}
    flags = set(found.get("flags", "").split())
    if not {"hypervisor", "constant_tsc", "tsc_known_freq"} <= flags or "aperfmperf" in flags:
        return None
    megahertz = re.fullmatch(r"(\d{1,6})\.(\d{3})", found.get("cpu MHz", ""))
    return int(megahertz[1] + megahertz[2]) if megahertz else None


def hide_kvm(folder: Path) -> None:
    """Take /dev/kvm out of this process's sight, in a mount namespace of its own.

    libvirt probes QEMU as root and asks for KVM as QEMU's user; where the two answers differ it throws its cache of
    QEMU's capabilities away at each look, which costs 15 s for each start of a VM.

    Raises:
        OSError: the kernel refused.
    """
    device = Path("/dev/kvm")
    if not device.exists():
        return
    cover = folder / "no-kvm"
    cover.touch(mode=0o600)
    _libc("unshare", _CLONE_NEWNS)
    _libc("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    _libc("mount", bytes(cover), bytes(device), None, _MS_BIND, None)


_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


def _libc(function: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


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
