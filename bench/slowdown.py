# SPDX-License-Identifier: GPL-2.0-or-later
"""What being watched costs a guest: the same work in one VM, in turn with and without looks at it once a second.

Processor time of the VM's QEMU and wall time for each block of work, medians of the blocks' ratios. Boots one APP-VM;
needs root; BLOCKS pairs take some five seconds each.

    .venv/bin/python bench/slowdown.py [BLOCKS]
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from introspect import BUSY
from processor import processor_seconds
from seen_vm import Seen, boot_seen, monitor

from vinci.images.build import ensure_images
from vinci.images.manifest import read_manifest
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.hooks import HookTables
from vinci.introspect.look import Subject, look
from vinci.introspect.profile import ensure_profile
from vinci.introspect.selinux import SelinuxWatch
from vinci.node.paths import images_directory

PERIOD_SECONDS = 1.0
WORK = "i=0; while [ $i -lt 30 ]; do i=$((i+1)); ls -lR /usr/lib/python3.11 | md5sum; done >/dev/null"
"""Processes, system calls, the page cache and plain computing."""


def watch(subject: Subject, qmp: Path, on: Event) -> None:
    """Look once a second while `on` is set. In a process of its own, as the agent's checker is."""
    while True:
        on.wait()
        began = time.monotonic()
        (registers,) = asyncio.run(monitor(qmp, "info registers -a"))
        look(subject, registers)
        time.sleep(max(0.0, PERIOD_SECONDS - (time.monotonic() - began)))


def block(seen: Seen) -> tuple[float, float]:
    """Processor and wall seconds of the work."""
    cpu, wall = processor_seconds(seen.machine.process.pid), time.monotonic()
    seen.sh(WORK)
    return processor_seconds(seen.machine.process.pid) - cpu, time.monotonic() - wall


def measure(seen: Seen, on: Event, blocks: int) -> None:
    """Pairs of blocks, each second pair the other way round."""
    block(seen)  # the caches
    ratios: list[tuple[float, float]] = []
    for number in range(blocks):
        took: dict[bool, tuple[float, float]] = {}
        for watched in (True, False) if number % 2 else (False, True):
            (on.set if watched else on.clear)()
            took[watched] = block(seen)
        on.clear()
        ratios.append((took[True][0] / took[False][0], took[True][1] / took[False][1]))
    for name, column in zip(("processor time", "wall time"), zip(*ratios, strict=True), strict=True):
        quarter, middle, three = statistics.quantiles(column, n=4)
        spread = f"half of all pairs between {quarter - 1:+.2%} and {three - 1:+.2%}"
        print(f"{name:15} watched against not: {middle - 1:+.2%} (median of {blocks} pairs, {spread})")


def main(blocks: int) -> None:
    """Boot, look and measure."""
    images = ensure_images(images_directory())
    profile = ensure_profile(images)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; a look each {PERIOD_SECONDS:g} s"
    )
    with asyncio.Runner() as runner:
        rig, seen = boot_seen(runner, images, profile, Path(tempfile.mkdtemp(dir="/dev/shm")), "APP")
        try:
            seen.sh(BUSY)
            selinux = SelinuxWatch([images.app_policy.read_bytes()])
            files = CertifiedFiles.of(read_manifest(images.app_manifest))
            subject = Subject(seen.guest, files, HookTables(profile), selinux=selinux)
            look(subject, seen.registers())
            context = multiprocessing.get_context("fork")
            on = context.Event()
            words = (subject, seen.machine.console.parent / "qmp", on)
            watcher = context.Process(target=watch, args=words, daemon=True)
            watcher.start()
            measure(seen, on, blocks)
            watcher.kill()
        finally:
            runner.run(rig.close())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
