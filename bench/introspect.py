# SPDX-License-Identifier: GPL-2.0-or-later
"""What a look at a running VM costs: attaching, the first look (every byte explained), and each check after that.

Boots one APP-VM with 80 processes and 26 modules. Processor time, which other work on the machine stretches
little; wall time beside it. Medians over ROUNDS looks, each with new registers. Needs root; about three minutes.

    .venv/bin/python bench/introspect.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests/system"), str(ROOT / "tests/system/fs_rig")]

from seen_vm import Seen, boot_seen  # noqa: E402

from vinci.images.build import ensure_images  # noqa: E402
from vinci.images.manifest import read_manifest  # noqa: E402
from vinci.introspect.attach import attach  # noqa: E402
from vinci.introspect.certified import CertifiedFiles  # noqa: E402
from vinci.introspect.findings import Check  # noqa: E402
from vinci.introspect.guest import Guest  # noqa: E402
from vinci.introspect.hooks import HookTables  # noqa: E402
from vinci.introspect.look import CHECKS, Subject, look  # noqa: E402
from vinci.introspect.profile import (  # noqa: E402
    ensure_profile,
    load_profile,
    profile_directory,
)
from vinci.introspect.selinux import SelinuxWatch  # noqa: E402
from vinci.node.paths import images_directory  # noqa: E402

PROCESSES, LOADED = 80, 26
BUSY = f"""
for module in nfsv4 nfsv3 nfs_layout_flexfiles 8021q af_packet_diag inet_diag; do
    [ $(wc -l < /proc/modules) -ge {LOADED} ] || modprobe $module
done
count() {{ ls -d /proc/[0-9]* | wc -l; }}
until [ $(count) -ge {PROCESSES + 3} ]; do setsid sleep 100000 </dev/null >/dev/null 2>&1 & sleep 0.05; done
"""
"""The shell that asks and what it asks with are processes, too."""
Result = TypeVar("Result")


def timed(function: Callable[[], Result]) -> tuple[Result, float, float]:
    """The result, and milliseconds of processor and of wall time."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, (time.process_time() - cpu) * 1000, (time.perf_counter() - wall) * 1000


def fresh(seen: Seen) -> Guest:
    """The guest attached to anew; nothing is known of it yet."""
    return attach(seen.guest.memory, seen.registers(), seen.guest.profile)


def main(rounds: int) -> None:
    """Print a table."""
    images = ensure_images(images_directory())
    ensure_profile(images)
    profile, cpu, wall = timed(lambda: load_profile(profile_directory(images)))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"profile loaded                   {cpu:8.1f} ms CPU {wall:8.1f} ms wall (once a process)")
    certified, hooks = CertifiedFiles.of(read_manifest(images.app_manifest)), HookTables(profile)
    with asyncio.Runner() as runner:
        rig, seen = boot_seen(runner, images, profile, Path(tempfile.mkdtemp(dir="/dev/shm")), "APP")
        try:
            seen.sh(BUSY)
            watch = SelinuxWatch([images.app_policy.read_bytes()])
            measure(seen, certified, hooks, watch, rounds)
        finally:
            runner.run(rig.close())


def measure(seen: Seen, certified: CertifiedFiles, hooks: HookTables, watch: SelinuxWatch, rounds: int) -> None:
    """Attach and look."""
    fresh(seen)  # what is worked out once a process
    text = seen.registers()
    guest, cpu, wall = timed(lambda: attach(seen.guest.memory, text, seen.guest.profile))
    print(f"attach                           {cpu:8.1f} ms CPU {wall:8.1f} ms wall")
    subject = Subject(guest, certified, hooks, selinux=watch)
    text = seen.registers()
    first, cpu, wall = timed(lambda: look(subject, text))
    print(f"first look                       {cpu:8.1f} ms CPU {wall:8.1f} ms wall")
    modules = seen.sh("wc -l < /proc/modules").strip()
    times: dict[Check, list[tuple[float, float]]] = {check: [] for check, _ in CHECKS}
    wholes: list[tuple[float, float]] = []
    findings = 0
    for _ in range(rounds):
        text = seen.registers()
        results, cpu, wall = timed(lambda text=text: look(subject, text))  # type: ignore[misc]
        wholes.append((cpu, wall))
        findings += sum(len(row.findings) + bool(row.error) for row in results)
        for row in results:
            times[row.check].append((row.milliseconds, row.examined))
    for check, rows in times.items():
        explained = next((row.milliseconds for row in first if row.check is check), 0.0)
        if rows:
            middle, examined = statistics.median(wall for wall, _ in rows), int(rows[-1][1])
            print(f"  {check:26} {middle:8.2f} ms wall; first {explained:8.1f} ms; {examined} examined")
    processes = next(row.examined for row in results if row.check is Check.PROCESSES)
    print(f"{processes} processes, {modules} modules, {rounds} looks")
    cpu, wall = (statistics.median(column) for column in zip(*wholes, strict=True))
    print(f"a look, median                   {cpu:8.1f} ms CPU {wall:8.1f} ms wall; {findings} findings")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
