# SPDX-License-Identifier: GPL-2.0-or-later
"""How long an attach takes, and the way from a changed byte of kernel text to quarantine; what watching costs.

Boots the five VMs of tests/system/watched.yaml with the default period. Needs root; about three minutes.

    .venv/bin/python bench/detection.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/system"))

from installation import Installation  # noqa: E402
from processes import agents, pids  # noqa: E402
from processor import processor_seconds  # noqa: E402
from tamper import changed_text  # noqa: E402
from watching import wait_for  # noqa: E402

from vinci.cli.attachment import images_of, open_memory  # noqa: E402
from vinci.cli.client import post  # noqa: E402
from vinci.images.build import images_in  # noqa: E402
from vinci.introspect.attach import attach  # noqa: E402
from vinci.introspect.memory import GuestMemory, parse_regions  # noqa: E402
from vinci.introspect.profile import ensure_profile  # noqa: E402
from vinci.node.paths import NodePaths  # noqa: E402

VICTIM = "strict-1"
WATCHED_SECONDS = 20.0


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    state = Path(tempfile.mkdtemp(prefix="vinci-b-", dir="/tmp"))
    state.chmod(0o711)
    installation = Installation(state, ROOT / "tests/system/watched.yaml")
    try:
        installation.check("up", str(installation.file), seconds=600)
        vms = installation.status()["vms"]
        wait_for(installation, lambda trust: all(t["verdict"] == "trusted" for t in trust.values()), seconds=300)
        print(f"{platform.machine()}, {os.cpu_count()} cores, QEMU/TCG, {len(vms)} VMs at 1 Hz")
        agent, checker = _shares(installation)
        print(f"agent {agent:.1%} of a core, checker {checker:.1%} (of 50 VMs: bench/many_vms.py)")
        print(f"attach, median of {len(vms)} VMs: {statistics.median(_attaches(installation)):.2f} s (wanted: 1 s)")
        latencies = sorted(_latency(installation) for _ in range(rounds))
        print(
            f"from the changed byte to quarantine, {rounds} times: median {statistics.median(latencies):.2f} s, "
            f"least {latencies[0]:.2f} s, most {latencies[-1]:.2f} s (wanted: 1.5 s)"
        )
    finally:
        if installation.vinci("down").status == 0:
            shutil.rmtree(state, ignore_errors=True)


def _shares(installation: Installation) -> tuple[float, float]:
    """What the agent and the checker use of a core while nothing happens."""
    watched = agents(installation)[1], *pids("vinci.introspect.checker", f"{installation.state}/")
    before = [processor_seconds(pid) for pid in watched]
    time.sleep(WATCHED_SECONDS)
    agent, checker = ((processor_seconds(pid) - b) / WATCHED_SECONDS for pid, b in zip(watched, before, strict=True))
    return agent, checker


def _attaches(installation: Installation) -> list[float]:
    """Seconds to find the kernel in each VM's memory, with the profile loaded."""
    seconds = []
    for vm in installation.status()["vms"]:
        told = asyncio.run(post(NodePaths(installation.state, "n1"), "/v1/attachment", {"vm": vm["name"]}))
        images = images_of(told)
        profile = ensure_profile(images_in(images, images.name))
        memory = GuestMemory(open_memory(told), parse_regions(told["mtree"]))
        started = time.perf_counter()
        attach(memory, told["registers"], profile)
        seconds.append(time.perf_counter() - started)
    return seconds


def _latency(installation: Installation) -> float:
    """Seconds from a change at a random moment to the record of the quarantine."""
    audit = installation.state / "n1" / "audit.jsonl"
    known = audit.stat().st_size
    time.sleep(random.random())
    with changed_text(installation, VICTIM):
        changed = time.time()
        while True:
            with audit.open() as file:
                file.seek(known)
                records = [json.loads(line) for line in file if line.endswith("\n")]
            found = [r for r in records if r["event"] == "vm-quarantined"]
            if found:
                break
            time.sleep(0.02)
    wait_for(installation, lambda trust: trust[VICTIM]["releasable"])
    installation.check("release", VICTIM, "--reason", "bench")
    return datetime.fromisoformat(found[0]["time"]).timestamp() - changed


if __name__ == "__main__":
    main()
