# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent is killed at moments that nobody chose: while it starts, changes, lets in and stops an infrastructure."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import PASSWORD, VINCI, Installation, installed
from processes import agents, pids, wait_for_agent

from vinci.node.authenticate import hash_password
from vinci.node.paths import NodePaths

KILLS = 2
LONGEST_UP_SECONDS = 25.0
FILE = """
vinci: 1
name: killed
labels: {levels: [low]}
communities:
  ward: {label: {level: low}, network: 10.77.1.0/24, app_vms: {count: 2, cpu_percent: 50}}
users:
  ann: {uid: 20001, communities: {ward: {}}, password_hash: "HASH"}
file_servers: {files: {}}
shares:
  homes: {server: files, kind: homes, label: {level: low}, mount: /home, access: {ward: [read, write]}}
  notes: {server: files, label: {level: low}, mount: /shares/notes, access: {ward: [read, write]}}
nodes: {n1: {}}
"""
VMS = {"ward-1", "ward-2", "ward-fw", "files"}


@pytest.fixture(scope="module")
def ward() -> Iterator[Installation]:
    """A small installation that is not up yet."""
    with installed() as made:
        made.file.write_text(FILE.replace("HASH", hash_password(PASSWORD)))
        yield made


@pytest.fixture(scope="module")
def moments() -> random.Random:
    """Random moments; the seed is printed when a test fails."""
    seed = random.randrange(1 << 32)
    print(f"seed of the moments: {seed}")
    return random.Random(seed)


def _start(installation: Installation, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "VINCI_STATE": str(installation.state)}
    return subprocess.Popen(
        [VINCI, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )


def _kill_agent(installation: Installation, *, supervisor: bool) -> None:
    pids = agents(installation)
    for pid in pids if supervisor else pids[1:]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _vms_by_name(installation: Installation) -> Counter[str]:
    """How many QEMU processes run of each VM."""
    names: Counter[str] = Counter()
    for pid in pids("qemu-system", f"{installation.state}/"):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        names[line[line.index(b"-name") + 1].decode().split(",")[0].removeprefix("guest=")] += 1
    return names


def _assert_whole(installation: Installation) -> None:
    """Every VM once, nothing to change, and what is enforced is what was declared."""
    assert _vms_by_name(installation) == dict.fromkeys(VMS, 1)
    assert "nothing changed" in installation.check("up", str(installation.file))
    found = json.loads(installation.vinci("verify", "--json").out)
    assert found["mismatches"] == []
    assert installation.status()["sessions"] == []


def test_killed_while_it_brings_the_infrastructure_up(ward: Installation, moments: random.Random) -> None:
    for round_ in range(KILLS):
        up = _start(ward, "up", str(ward.file))
        try:
            up.wait(moments.uniform(0.3, LONGEST_UP_SECONDS))
        except subprocess.TimeoutExpired:
            _kill_agent(ward, supervisor=round_ % 2 == 1)
        up.communicate(timeout=300)
        assert max(_vms_by_name(ward).values(), default=0) <= 1, "no VM runs twice"
        if round_ == KILLS // 2:
            ward.vinci("down")  # from nothing again
    ward.check("up", str(ward.file))
    _assert_whole(ward)


def test_killed_while_somebody_logs_in_works_and_leaves(ward: Installation, moments: random.Random) -> None:
    ward.check("up", str(ward.file))
    for _ in range(KILLS):
        login = _start(ward, "login", "ann", "--", "sh", "-c", "echo x >> ~/lines && sync ~/lines && sleep 1")
        assert login.stdin is not None
        login.stdin.write(f"{PASSWORD}\n".encode())
        login.stdin.flush()
        time.sleep(moments.uniform(0.0, 4.0))
        _kill_agent(ward, supervisor=False)
        login.communicate(timeout=120)
        wait_for_agent(ward, seconds=120)
    done = ward.login("ann", "echo y >> ~/lines && tail -n 1 ~/lines")
    assert done.out == "y\n", done
    _assert_whole(ward)


def _throttled(installation: Installation, vm: str) -> int:
    """How often the kernel has held a VM's processors back, from the cpu controller's cpu.stat (cgroup v1 or v2)."""
    (pid,) = pids("qemu-system", f"guest={vm},", f"{installation.state}/")
    groups = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    total = 0
    for _number, controllers, path in groups:
        if "cpu" in controllers.split(",") or not controllers:
            root = Path("/sys/fs/cgroup") / controllers / path.strip("/").removesuffix("/emulator")
            for stat in root.rglob("cpu.stat"):
                words = dict(line.split() for line in stat.read_text().splitlines())
                total += int(words.get("nr_throttled", 0))
    return total


def test_a_vm_gets_no_more_processor_than_declared(ward: Installation) -> None:
    ward.check("up", str(ward.file))
    before = _throttled(ward, "ward-1")
    busy = _start(ward, "exec", "ward-1", "--", "sh", "-c", "echo $$ >/run/busy; while :; do :; done")
    try:
        while _throttled(ward, "ward-1") < before + 20:  # half a core was declared, a whole one is wanted
            assert busy.poll() is None, "the kernel did not hold it back"
            time.sleep(0.2)
    finally:
        ward.root("ward-1", "kill $(cat /run/busy)")
        busy.kill()
        busy.communicate()


def test_killed_while_it_takes_everything_down(ward: Installation, moments: random.Random) -> None:
    ward.check("up", str(ward.file))
    down = _start(ward, "down")
    time.sleep(moments.uniform(0.2, 2.0))
    _kill_agent(ward, supervisor=True)
    down.communicate(timeout=120)
    done = ward.vinci("down")
    if done.status != 0:  # nobody is there to ask: the next agent finds what is left
        ward.check("up", str(ward.file))
        ward.check("down")
    assert _vms_by_name(ward) == {}
    assert not (Path("/run/netns") / NodePaths(ward.state, "n1").namespace).exists()
