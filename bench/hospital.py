# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the hospital takes to come up, what an idle VM costs, what the agent needs: `python bench/hospital.py`.

Needs root and built images. Uses a state directory of its own and takes everything down at the end. Prints the
machine it ran on: figures of shared or busy machines say little.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
VINCI = Path(sys.executable).with_name("vinci")
IDLE_SECONDS = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


def vinci(state: Path, *words: str) -> str:
    """Run the CLI, which has to succeed; its output."""
    environment = {**os.environ, "VINCI_STATE": str(state)}
    done = subprocess.run([VINCI, *words], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"vinci {' '.join(words)}: {done.stderr}")
    return done.stdout


def timed(state: Path, *words: str) -> float:
    """Wall time of a command, seconds."""
    start = time.monotonic()
    vinci(state, *words)
    return time.monotonic() - start


def cpu_seconds(state: Path, program: str) -> dict[int, float]:
    """CPU time so far of the processes of this installation, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if program in line and str(state) in line:
            found[int(folder.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    state = Path(tempfile.mkdtemp(prefix="vinci-b-", dir="/tmp"))
    state.chmod(0o711)
    file = str(ROOT / "examples" / "hospital.yaml")
    print(f"machine: {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}, kernel {os.uname().release}")
    ups = []
    try:
        for number in range(rounds):
            ups.append(timed(state, "up", "-q", file))
            if number < rounds - 1:
                vinci(state, "down")
        again = timed(state, "up", "-q", file)
        verify = timed(state, "verify", "--json")
        time.sleep(5)
        before = cpu_seconds(state, "qemu-system")
        time.sleep(IDLE_SECONDS)
        after = cpu_seconds(state, "qemu-system")
        idle = sorted((after[pid] - before[pid]) / IDLE_SECONDS * 100 for pid in before if pid in after)
        report = json.loads(vinci(state, "status", "--json"))
        print(f"up: median {statistics.median(ups):.1f} s of {[round(up, 1) for up in ups]} ({len(report['vms'])} VMs)")
        print(f"second up (changes nothing): {again:.1f} s")
        print(f"verify: {verify:.1f} s")
        print(f"idle VM: median {statistics.median(idle):.2f} %, worst {idle[-1]:.2f} % of a core")
        print(f"agent: {report['agent_memory_mib']} MiB at its peak")
    finally:
        vinci(state, "down")
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
