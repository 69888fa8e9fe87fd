# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever has broken out of a VM into its QEMU is a user of the node that has nothing of another VM's."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installation import Installation
from processes import pids, qemus

from vinci.node.paths import NodePaths
from vinci.vmm.host import ram_directory

# Arguments: a process, then files and sockets. Prints what of it this user may do.
BREAK_IN = """
import ctypes, json, os, socket, stat, sys
pid, paths = int(sys.argv[1]), sys.argv[2:]
libc = ctypes.CDLL(None, use_errno=True)
def works(attempt):
    try:
        attempt()
    except OSError:
        return False
    return True
def attach():
    if libc.ptrace(0x4206, pid, 0, 0):  # PTRACE_SEIZE, which does not stop it
        raise OSError(ctypes.get_errno(), "ptrace")
def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(path)
def use(path):
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        is_socket = path.endswith(("/ssh", "/con", ".sock"))
    connect(path) if is_socket else open(path, "rb").close()
attempts = {"signal": lambda: os.kill(pid, 0), "ptrace": attach}
attempts["memory"] = lambda: open(f"/proc/{pid}/mem", "rb").close()
attempts["files"] = lambda: os.listdir(f"/proc/{pid}/fd")
for path in paths:
    attempts[path] = lambda path=path: use(path)
print(json.dumps([name for name, attempt in attempts.items() if works(attempt)]))
"""


@dataclass(frozen=True)
class Qemu:
    """A VM's QEMU: its process, user, and what of the node's files it is about."""

    pid: int
    user: int
    group: int
    paths: tuple[str, ...]


def of(hospital: Installation, vm: str) -> Qemu:
    (pid,) = pids("qemu-system", f"guest={vm},", f"{hospital.state}/")
    status = Path(f"/proc/{pid}").stat()
    return Qemu(pid, status.st_uid, status.st_gid, tuple(sorted(map(str, _paths(hospital, vm, status.st_uid)))))


def _paths(hospital: Installation, vm: str, user: int) -> Iterator[Path]:
    node = hospital.state / "n1"
    yield from (node / "boot" / vm).iterdir()
    for top in (node, ram_directory(NodePaths(hospital.state.resolve(), "n1").libvirt)):
        for path in top.rglob("*"):
            try:
                mode, owners = path.lstat().st_mode, {path.lstat().st_uid, path.parent.stat().st_uid}
            except FileNotFoundError:
                continue  # the agent's or libvirt's, for a moment
            if user in owners and (stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
                yield path  # libvirt makes the sockets, in a folder of the VM's user


def break_in(taken: Qemu, victim: Qemu) -> set[str]:
    """What a process with the rights of one QEMU may do to another and its files."""
    become = ["setpriv", f"--reuid={taken.user}", f"--regid={taken.group}", "--clear-groups", "--inh-caps=-all"]
    words = ["/usr/bin/python3", "-c", BREAK_IN, str(victim.pid), *victim.paths]
    done = subprocess.run([*become, *words], capture_output=True, text=True, check=True, cwd="/")
    return set(json.loads(done.stdout))


def test_each_qemu_is_a_user_of_its_own(hospital: Installation) -> None:
    users = [Path(f"/proc/{pid}").stat().st_uid for pid in qemus(hospital)]
    assert len(users) == len(hospital.status()["vms"])
    assert len(set(users)) == len(users)
    assert 0 not in users


def test_a_taken_qemu_has_nothing_of_another_vms(hospital: Installation) -> None:
    taken, victim = of(hospital, "doctors-1"), of(hospital, "files")
    names = [Path(path).name for path in victim.paths]
    assert {"ssh_host_ed25519_key", "policy", "ssh", "con", "monitor.sock", "master-key.aes"} <= set(names)
    assert any("ram" in name for name in names)
    assert any(path.startswith(str(hospital.state / "n1" / "disks")) for path in victim.paths)
    assert not break_in(taken, victim)
    own = break_in(taken, taken)
    assert "signal" in own
    assert any("ram" in path for path in own)
    assert any(path.endswith("/ssh_host_ed25519_key") for path in own)
