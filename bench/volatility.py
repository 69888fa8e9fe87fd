# SPDX-License-Identifier: GPL-2.0-or-later
"""Our checks beside volatility3's plugins for the same questions, on the same running VM, in turn.

volatility3 is no dependency; give it a place of its own first:

    python3 -m venv /tmp/vol && /tmp/vol/bin/pip install volatility3
    .venv/bin/python bench/volatility.py /tmp/vol/bin/python [ROUNDS [EVIDENCE]]

Processor time, medians. volatility3 is given all that it would have to search for (symbols, slide, page tables: see
`volatility_worker.py`) and keeps them, with its caches, between the rounds. Our checks look at more than the plugins
beside them do. Boots one APP-VM with about 80 processes and 26 modules; needs root; some three minutes. With EVIDENCE
(a directory of `vinci inspect --save`) both look at that instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from introspect import BUSY
from isf import write_isf
from seen_vm import boot_seen

from vinci.images.build import Images, ensure_images
from vinci.images.manifest import read_manifest
from vinci.introspect.attach import attach
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.findings import Check
from vinci.introspect.guest import Budget, Guest
from vinci.introspect.hooks import HookTables
from vinci.introspect.look import CHECKS, Subject, look
from vinci.introspect.memory import GuestMemory, parse_regions
from vinci.introspect.profile import ensure_profile
from vinci.introspect.registers import parse_registers
from vinci.node.paths import images_directory

EQUIVALENTS = {
    Check.PROCESSES: ("pslist.PsList", "pidhashtable.PIDHashTable", "kthreads.Kthreads"),
    Check.MODULES: ("lsmod.Lsmod", "check_modules.Check_modules", "hidden_modules.Hidden_modules"),
    Check.RODATA: ("check_syscall.Check_syscall",),
    Check.PLACE: ("check_idt.Check_idt",),
    Check.HOOKS: ("keyboard_notifiers.Keyboard_notifiers", "netfilter.Netfilter", "tty_check.tty_check"),
    Check.USER_PAGES: ("malfind.Malfind",),
    Check.NETWORK: ("sockstat.Sockstat", "ebpf.EBPF"),
}


class Volatility:
    """volatility3, in a process of its own."""

    def __init__(self, python: str, *words: str) -> None:
        worker = Path(__file__).with_name("volatility_worker.py")
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(worker), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, plugin: str) -> tuple[float, int, str]:
        """Milliseconds of its processor time, rows, and what went wrong."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(plugin + "\n")
        self._process.stdin.flush()
        milliseconds, rows, problem = json.loads(self._process.stdout.readline())
        return milliseconds, rows, problem

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def ours(subject: Subject, registers: str) -> dict[Check, float]:
    """Milliseconds of processor time of each check, as a look makes them."""
    processors, times = parse_registers(registers), {}
    for check, function in CHECKS:
        began = time.process_time()
        subject.guest.begin(processors, Budget())
        function(subject)
        times[check] = (time.process_time() - began) * 1000
    return times


def compare(volatility: Volatility, subject: Subject, registers: Callable[[], str], rounds: int) -> None:
    """Run both in turn and print."""
    mine: dict[Check, list[float]] = defaultdict(list)
    theirs: dict[str, list[float]] = defaultdict(list)
    said: dict[str, str] = {}
    look(subject, registers())  # the first explains every byte
    for _ in range(rounds):
        for plugins in EQUIVALENTS.values():
            for plugin in plugins:
                milliseconds, rows, problem = volatility.run(plugin)
                theirs[plugin].append(milliseconds)
                said[plugin] = problem or f"{rows} rows"
            for each, milliseconds in ours(subject, registers()).items():
                mine[each].append(milliseconds)
    print(f"{'check':24} {'ours':>8}   {'volatility3':>11}  {'ratio':>7}  plugins")
    total, work = 0.0, 0.0
    for check, plugins in EQUIVALENTS.items():
        good = [plugin for plugin in plugins if said[plugin].endswith(" rows")]
        took = sum(statistics.median(theirs[plugin]) for plugin in good)
        own = statistics.median(mine[check])
        total, work = total + took, work + own
        told = ", ".join(f"{plugin.partition('.')[0]} ({said[plugin]})" for plugin in plugins)
        print(f"{check:24} {own:5.1f} ms   {took:8.0f} ms  {took / own:7.0f}  {told}")
    print(f"{'these together':24} {work:5.1f} ms   {total:8.0f} ms  {total / work:7.0f}")
    whole = sum(statistics.median(times) for times in mine.values())
    print(f"{'all our checks':24} {whole:5.1f} ms   {total:8.0f} ms  {total / whole:7.0f}")


def main(python: str, rounds: int, evidence: Path | None) -> None:
    """Boot, or open the evidence, and compare."""
    images = ensure_images(images_directory())
    profile = ensure_profile(images)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if evidence is not None:
        registers = (evidence / "registers.txt").read_text()
        regions = parse_regions((evidence / "memory-map.txt").read_text())
        guest = attach(GuestMemory.open(evidence / "memory.raw", regions), registers, profile)
        run(python, rounds, images, guest, lambda: registers, evidence / "memory.raw")
        return
    with asyncio.Runner() as runner:
        folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        rig, seen = boot_seen(runner, images, profile, folder, "APP")
        try:
            seen.sh(BUSY)
            print(f"{seen.sh('ps ax | wc -l').strip()} processes, {seen.sh('lsmod | wc -l').strip()} modules")
            run(python, rounds, images, seen.guest, seen.registers, folder / "app" / "ram")
        finally:
            runner.run(rig.close())


def run(python: str, rounds: int, images: Images, guest: Guest, registers: Callable[[], str], ram: Path) -> None:
    """Start volatility3 and compare."""
    with tempfile.NamedTemporaryFile(suffix=".json") as isf:
        write_isf(guest.profile, Path(isf.name))
        volatility = Volatility(python, str(ram.resolve()), isf.name, hex(guest.space.root), hex(guest.slide))
        try:
            files = CertifiedFiles.of(read_manifest(images.app_manifest))
            subject = Subject(guest, files, HookTables(guest.profile))
            compare(volatility, subject, registers, rounds)
        finally:
            volatility.end()


if __name__ == "__main__":
    main(
        sys.argv[1],
        int(sys.argv[2]) if len(sys.argv) > 2 else 5,
        Path(sys.argv[3]) if len(sys.argv) > 3 else None,
    )
