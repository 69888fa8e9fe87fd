# SPDX-License-Identifier: GPL-2.0-or-later
"""An APP-VM's SELinux policy, from inside: what users' programs cannot do, and that it is the policy that forbids it.

Each attack is tried twice: under the image's policy, which denies it, and under one with the rights added that the
attack needs, where it works. So an attack that fails for another reason is no proof here.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from fs_rig.rig import Machine, Rig
from rootkit.build import rootkit_module
from rootkit.driver import Rootkit, Trick
from rootkit.policies import laxer_policy

from vinci.images.build import Images
from vinci.node.channel import Result
from vinci.policy.app_policy import user_context

HERE = Path(__file__).parent
IDS = "--reuid 20001 --regid 60000 --clear-groups"
MISUSE = "/opt/misuse.py"
"""Where users may read what root has put: a file that root makes in /tmp is root's alone."""
POLICY = "/usr/lib/vinci/policy"


class As(StrEnum):
    """Who attacks; the values are what becomes them."""

    USER = f"setpriv {IDS} --no-new-privs --selinux-label {user_context()}"
    SET_UID_SHELL = f"setpriv {IDS} --selinux-label {user_context()} /root/suid/bash -p"
    CONFINED_ROOT = f"setpriv --selinux-label {user_context()}"
    """Root with all its capabilities, in the users' domain."""
    ROOT = "env"


@dataclass(frozen=True, slots=True)
class Attack:
    """A command that prints `done` when it succeeds, and the rights (type, class, permissions) that it would need."""

    name: str
    who: As
    command: str
    needs: tuple[tuple[str, str, str], ...]
    subject: str = "vinci_user_t"

    def __str__(self) -> str:
        return self.name


def _misuse(way: str, *needs: tuple[str, str, str], who: As = As.USER) -> Attack:
    return Attack(way, who, f"python3 {MISUSE} {way}", needs)


def _shell(name: str, who: As, script: str, *needs: tuple[str, str, str], subject: str = "vinci_user_t") -> Attack:
    shell = "" if who is As.SET_UID_SHELL else "sh "
    return Attack(name, who, f"{shell}-c '{script} && echo done'", needs, subject)


SELF = "vinci_user_t"
ATTACKS = [
    _misuse("fresh-memory", (SELF, "process", "execmem")),
    _misuse("heap", (SELF, "process", "execmem execheap")),
    _misuse("stack", (SELF, "process", "execmem execstack")),
    _misuse("changed-library", ("vinci_guest_t", "file", "execmod")),
    _misuse("memory-file", ("vinci_memory_t", "file", "execute execute_no_trans")),
    _misuse(
        "packet-socket",
        (SELF, "capability", "net_raw"),
        (SELF, "packet_socket", "create"),
        who=As.CONFINED_ROOT,
    ),
    Attack(
        "attach",
        As.CONFINED_ROOT,
        f"python3 {MISUSE} attach $(pgrep -o sleep)",
        ((SELF, "process", "ptrace"), ("vinci_kernel_t", "process", "ptrace"), (SELF, "capability", "sys_ptrace")),
    ),
    _shell(
        "key of the VM",
        As.SET_UID_SHELL,
        "cat /run/vinci/ssh_host_ed25519_key",
        ("vinci_private_t", "file", "open read"),
    ),
    _shell(
        "file of root's",
        As.SET_UID_SHELL,
        "echo >>/etc/hosts",
        ("vinci_guest_t", "file", "append write"),
    ),
    _shell(
        "owner of a file",
        As.SET_UID_SHELL,
        "touch /tmp/mine; chown 1 /tmp/mine",
        (SELF, "capability", "chown fowner fsetid"),
    ),
    _shell(
        "kernel module",
        As.CONFINED_ROOT,
        "insmod /root/rootkit/rootkit.ko; rmmod rootkit",
        (SELF, "capability", "sys_module"),
        ("vinci_guest_t", "system", "module_load"),
    ),
    _shell("memory of the machine", As.CONFINED_ROOT, "head -c 1 /dev/mem", (SELF, "capability", "sys_rawio")),
    _shell(
        "enforcing mode",
        As.ROOT,
        "echo 0 >/sys/fs/selinux/enforce",
        ("vinci_guest_t", "security", "setenforce"),
        subject="vinci_kernel_t",
    ),
    _shell(
        "another policy",
        As.ROOT,
        f"dd if={POLICY} of=/sys/fs/selinux/load bs=64M count=1",
        ("vinci_guest_t", "security", "load_policy"),
        subject="vinci_kernel_t",
    ),
]


@dataclass
class Guest:
    """An APP-VM, and the rootkit that can take its policy away."""

    runner: asyncio.Runner
    machine: Machine
    rootkit: Rootkit

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end."""
        return self.runner.run(work)

    def sh(self, script: str) -> str:
        """Output of a script that has to succeed as root."""
        return str(self.run(self.machine.ok(script))).strip()

    def attack(self, attack: Attack) -> Result:
        """How an attack ends."""
        result = self.run(self.machine.sh(f"cd /; exec {attack.who} {attack.command}"))
        assert isinstance(result, Result)
        return result

    def load(self, policy: bytes) -> None:
        """Load a policy that the one in force would not let in."""

        async def steps() -> None:
            await self.machine.put("/root/policy", policy, "0600")
            await self.rootkit.do(Trick.SELINUX_ENFORCING)
            await self.machine.ok("dd if=/root/policy of=/sys/fs/selinux/load bs=64M count=1")
            await self.rootkit.undo(Trick.SELINUX_ENFORCING)
            await self.rootkit.unload()

        self.run(steps())


@pytest.fixture(scope="module")
def guest(images: Images) -> Iterator[Guest]:
    with asyncio.Runner() as runner:
        rig = Rig(images, Path(tempfile.mkdtemp(prefix="vinci-app-selinux-")))
        try:
            machine = runner.run(rig.boot("app", "APP", [], 256))
            guest = Guest(runner, machine, Rootkit(machine, rootkit_module(images)))
            runner.run(guest.rootkit.install())
            runner.run(machine.put(MISUSE, (HERE / "misuse.py").read_bytes()))
            guest.sh("mkdir -m 711 /root/suid && chmod 711 /root && mount -t tmpfs tmpfs /root/suid")
            guest.sh("cp /bin/bash /root/suid && chmod 4755 /root/suid/bash; setsid sleep 100000 >/dev/null 2>&1 &")
            yield guest
        finally:
            runner.run(rig.close())


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_the_policy_and_nothing_else_denies_it(guest: Guest, images: Images, attack: Attack) -> None:
    denied = guest.attack(attack)
    assert (denied.status != 0, "done" in denied.text) == (True, False), denied
    guest.load(laxer_policy(*((attack.subject, *needed) for needed in attack.needs)))
    try:
        allowed = guest.attack(attack)
        assert "done" in allowed.text, allowed
    finally:
        guest.load(images.app_policy.read_bytes())


def test_selinux_enforces_the_policy_of_the_image(guest: Guest, images: Images) -> None:
    assert guest.sh("cat /sys/fs/selinux/enforce") == "1"
    assert guest.run(guest.machine.ok(f"sha256sum <{POLICY}")).split()[0] == _sha256(images.app_policy)


def test_a_session_is_in_the_users_domain(guest: Guest) -> None:
    guest.sh("printf 'account\\tanna\\t20001\\t60000\\tx\\t/home/anna\\t/bin/bash\\n' | /usr/lib/vinci/app-login")
    session = "/usr/lib/vinci/app-session anna sh -c"
    assert guest.sh(f"{session} 'cat /proc/self/attr/current'").rstrip("\0") == user_context()
    work = (
        "echo alias >>.bashrc; touch /tmp/a /var/tmp/b /dev/shm/c; mkfifo d; cp /usr/bin/ls e; ./e; echo x | grep -P x"
    )
    assert guest.sh(f"{session} '{work}'").split() == ["d", "e", "x"]
    # the set-UID bit means nothing in a session, and root's programs go on as before
    assert (
        guest.sh(f"{session} '/root/suid/bash -p -c id' | cut -d' ' -f1,3")
        == "uid=20001(anna) groups=60000(users-of-vinci)"
    )
    guest.sh("/usr/lib/vinci/app-logout anna; ! pgrep -U 20001")


def test_python_calls_back_without_writable_code(guest: Guest) -> None:
    """libffi's closures are the one thing in the image that might want writable code."""
    script = "import ctypes as c; print(c.CFUNCTYPE(c.c_int)(lambda: 7)())"
    assert guest.sh(f"{As.USER} python3 -c '{script}'") == "7"


def test_without_selinux_the_vm_does_not_come_up(images: Images) -> None:
    with asyncio.Runner() as runner:
        rig = Rig(images, Path(tempfile.mkdtemp(prefix="vinci-app-selinux-")))
        try:
            machine = runner.run(rig.boot("app", "APP", [], 192, selinux=False))
            status = runner.run(machine.ok("cat /run/vinci/status; ip -br link show up"))
            assert status.startswith("failed: the SELinux policy does not load")
            assert " UP " not in status
        finally:
            runner.run(rig.close())


def _sha256(path: Path) -> str:
    return subprocess.run(["sha256sum", str(path)], check=True, capture_output=True, text=True).stdout.split()[0]
