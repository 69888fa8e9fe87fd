# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes of an installation under test, and waiting for its agent."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from installation import Installation


def pids(*words: str) -> list[int]:
    """Processes whose command line holds all the words."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(int(folder.name))
    return sorted(found)


def qemus(hospital: Installation) -> list[int]:
    return pids("qemu-system", f"{hospital.state}/")


def agents(hospital: Installation) -> list[int]:
    """The supervisor, then its agent."""
    parents = {}
    for pid in pids("-m vinci.node", f"--state {hospital.state} "):
        with suppress(OSError):  # a child of the agent's that was not another program yet, and ended
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return sorted(parents, key=lambda pid: parents[pid] in parents)


def wait_for_agent(hospital: Installation, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done = hospital.vinci("status", "--json")
        if done.status == 0 and {vm["state"] for vm in json.loads(done.out)["vms"]} == {"running"}:
            return
        time.sleep(0.3)
    raise AssertionError("no agent took over")
