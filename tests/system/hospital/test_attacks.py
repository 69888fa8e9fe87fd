# SPDX-License-Identifier: GPL-2.0-or-later
"""Root in an APP-VM attacks everything around it. Each attempt is denied, recorded, and disturbs nobody else.

That each rule matters is shown where it can be taken away: tests/system/test_network.py and tests/system/fs_rig.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from installation import PASSWORD, VINCI, Installation
from processes import pids, wait_for_agent

HERE = Path(__file__).parents[1]
ATTACKER = "doctors-1"
OWN, FS, GATEWAY = "10.20.1.10", "10.20.1.2", "10.20.1.1"
NURSES, NURSES_FS = "10.20.2.10", "10.20.2.2"


def _mac(address: str) -> str:
    return "02:56:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def _install(hospital: Installation, name: str, source: Path, vm: str = ATTACKER) -> str:
    """Put a program of the attacker's into a VM."""
    done = hospital.vinci("exec", vm, "--", "sh", "-c", f"cat >/root/{name}", stdin=source.read_text())
    assert done.status == 0, done
    return f"/root/{name}"


@pytest.fixture(scope="module")
def forge(hospital: Installation) -> str:
    return _install(hospital, "forge.py", HERE / "forge.py")


@pytest.fixture(scope="module")
def raw_nfs(hospital: Installation) -> str:
    return _install(hospital, "raw_nfs.py", HERE / "fs_rig" / "raw_nfs.py")


@pytest.mark.parametrize(
    ("kind", "target", "reason"),
    [
        ("ip", FS, "spoofed-ip"),
        ("mac", FS, "spoofed-mac"),
        ("arp-sender", FS, "spoofed-arp"),
        ("arp-request", FS, "spoofed-arp"),
        ("ipv6", FS, "ipv6"),
        ("router-advertisement", FS, "ra"),
        ("vlan", FS, "vlan"),
        ("qinq", FS, "vlan"),
        ("ethertype", FS, "ethertype"),
        ("dhcp", FS, "dhcp"),
        ("broadcast", FS, "broadcast"),
        ("foreign", NURSES, "not-a-peer"),
    ],
)
def test_a_forged_frame_is_dropped_and_recorded(
    hospital: Installation, forge: str, kind: str, target: str, reason: str
) -> None:
    since = hospital.next_audit()
    words = f"{kind} {_mac(OWN)} {OWN} {_mac(GATEWAY)} {target}"
    done = hospital.root(ATTACKER, f"python3 {forge} {words}")
    assert done.status == 0, done
    record = hospital.wait_for_audit(since, lambda r: r["event"] == "packet-dropped" and r.get("reason") == reason)
    assert record["vm"] == ATTACKER


@pytest.mark.parametrize("target", [NURSES, NURSES_FS, "10.20.2.1", "10.255.0.2", "10.20.1.254"])
def test_no_connection_leaves_the_community(hospital: Installation, target: str) -> None:
    """Other VCNs, the transit network; the last one would be the bridge's. The own file server is reached so."""
    since = hospital.next_audit()
    tries = (
        f"timeout 4 bash -c 'exec 3<>/dev/tcp/{where}' && echo {where}" for where in (f"{FS}/2049", f"{target}/22")
    )
    assert hospital.root(ATTACKER, "; ".join(tries)).out == f"{FS}/2049\n"
    hospital.wait_for_audit(since, lambda r: r["event"] == "packet-dropped" and r.get("vm") == ATTACKER)


def test_an_undeclared_service_does_not_cross_and_is_recorded(hospital: Installation) -> None:
    """Administration may reach the nurses' HTTPS: the bridge lets it to its FW-VM, which lets nothing else cross."""
    since = hospital.next_audit()
    done = hospital.root("administration-1", f"timeout 4 bash -c 'exec 3<>/dev/tcp/{NURSES}/22'; echo status=$?")
    assert "status=0" not in done.out
    record = hospital.wait_for_audit(since, lambda r: r["event"] == "flow-denied")
    assert (record["vm"], record["firewall"], record["target_port"]) == ("administration-1", "administration-fw", "22")


def _as_uid(uid: int, command: str) -> str:
    return f"setpriv --reuid {uid} --regid 60000 --clear-groups sh -c '{command}'"


@contextmanager
def _logged_in(hospital: Installation, user: str) -> Iterator[None]:
    """A doctor is logged in on the attacker's VM."""
    child, master = pty.fork()
    if child == 0:
        os.environ["VINCI_STATE"] = str(hospital.state)
        _set_window(24, 80)
        os.execv(VINCI, [str(VINCI), "login", user, "--community", "doctors"])
    try:
        _expect(master, rb"Password of \w+: ")
        os.write(master, PASSWORD.encode() + b"\n")
        _expect(master, rb"\$ ")
        yield
    finally:
        os.write(master, b"exit\n")
        _wait_for_end(child, master)


@pytest.fixture
def anna(hospital: Installation) -> Iterator[None]:
    """Anna is logged in on the attacker's VM while the test runs."""
    with _logged_in(hospital, "anna"):
        yield


def test_uids_that_are_not_logged_in_here_get_nothing(hospital: Installation, anna: None) -> None:
    """Another UID of the community (bruno), one of another community (sally), one of nobody, and root."""
    del anna
    since = hospital.next_audit()
    tries = "; ".join(
        _as_uid(uid, f"cat /mnt/.vinci-verify >/dev/null && echo got {uid}")
        for uid in (20002, 1001, 20003, 4242, 0, 20001)
    )
    options = "vers=4.2,soft,timeo=50,retrans=1"
    done = hospital.root(ATTACKER, f"mount -t nfs4 -o {options} {FS}:/prescriptions /mnt; {tries}; umount -l /mnt")
    assert done.out == "got 20001\n"  # who is logged in
    hospital.wait_for_audit(since, lambda r: r["event"] == "file-denied" and r.get("vm") == ATTACKER)


def _expect(master: int, pattern: bytes, seconds: float = 60) -> bytes:
    seen = b""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, seen):
        ready, _, _ = select.select([master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"waited for {pattern!r}, saw {seen!r}"
        try:
            chunk = os.read(master, 4096)
        except OSError:
            chunk = b""
        assert chunk, f"ended before {pattern!r}, saw {seen!r}"
        seen += chunk
    return seen


def _wait_for_end(child: int, master: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            os.close(master)
            return os.waitstatus_to_exitcode(status)
        if select.select([master], [], [], 0.2)[0]:
            try:
                os.read(master, 4096)
            except OSError:
                time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the login did not end")


@pytest.mark.parametrize(("address", "reason"), [("10.20.1.77", "spoofed-arp"), (NURSES, "spoofed-ip")])
def test_nothing_is_mounted_by_another_address(
    hospital: Installation, anna: None, raw_nfs: str, address: str, reason: str
) -> None:
    """One of the own community that no VM has, and the nurses', with the server's MAC already known.

    Anna is logged in: from its own address root may mount now. Each attempt has a connection of its own.
    """
    del anna
    known = f"ip neighbour replace {FS} lladdr {_mac(FS)} dev eth0 nud permanent" if reason == "spoofed-ip" else ":"
    script = f"""
    mounts() {{
        case $(timeout 8 python3 {raw_nfs} {FS} 0 mount /srv/prescriptions 2>/dev/null) in "0 "*) echo "$1" ;; esac
    }}
    mounts own
    ip address flush dev eth0; ip address add {address}/24 dev eth0; ip route replace {FS} dev eth0
    ip neighbour flush dev eth0; {known}
    mounts foreign
    ip neighbour del {FS} dev eth0
    ip address flush dev eth0; ip address add {OWN}/24 dev eth0; ip route add default via {GATEWAY}
    mounts "own again"
    """
    since = hospital.next_audit()
    done = hospital.root(ATTACKER, script)
    assert done.out.splitlines() == ["own", "own again"], done
    record = hospital.wait_for_audit(since, lambda r: r["event"] == "packet-dropped" and r.get("reason") == reason)
    assert (record["vm"], record["claimed_source"]) == (ATTACKER, address)


def test_root_may_act_as_who_is_logged_in_here_and_as_nobody_else(
    hospital: Installation, anna: None, raw_nfs: str
) -> None:
    del anna
    handle = hospital.root(ATTACKER, f"python3 {raw_nfs} {FS} 0 mount /srv/prescriptions").out.split()
    assert handle[0] == "0", handle
    allowed = hospital.root(ATTACKER, f"python3 {raw_nfs} {FS} 20001 getattr {handle[1]}")
    assert allowed.out.split()[0] == "0"
    for uid in (20002, 20003, 20004, 1001, 4242, 0):
        since = hospital.next_audit()
        denied = hospital.root(ATTACKER, f"python3 {raw_nfs} {FS} {uid} lookup {handle[1]} .vinci-verify")
        assert denied.out.split()[:1] != ["0"], (uid, denied)
        _wait_for_denied_file(hospital, since, ATTACKER, uid)


def test_a_file_handle_means_nothing_to_another_community(hospital: Installation, anna: None, raw_nfs: str) -> None:
    del anna
    handle = hospital.root(ATTACKER, f"python3 {raw_nfs} {FS} 0 mount /srv/prescriptions").out.split()
    _install(hospital, "raw_nfs.py", HERE / "fs_rig" / "raw_nfs.py", "administration-1")
    for uid in (20001, 1001, 0):
        since = hospital.next_audit()
        replayed = hospital.root(
            "administration-1", f"python3 /root/raw_nfs.py 10.20.3.2 {uid} lookup {handle[1]} .vinci-verify"
        )
        assert replayed.out.split()[:1] != ["0"], (uid, replayed)
        _wait_for_denied_file(hospital, since, "administration-1", uid)


def _wait_for_denied_file(hospital: Installation, since: int, vm: str, uid: int) -> None:
    hospital.wait_for_audit(
        since, lambda r: (r["event"], r.get("vm"), r.get("local_uid", r.get("uid"))) == ("file-denied", vm, uid)
    )


def test_logging_out_ends_the_right_at_once(hospital: Installation) -> None:
    script = (
        "(sleep 1000 </dev/null >/dev/null 2>&1 &) ; cat /shares/prescriptions/.vinci-verify >/dev/null && echo read"
    )
    assert hospital.login("anna", script).out == "read\n"
    tries = "; ".join(_as_uid(uid, f"cat /mnt/.vinci-verify >/dev/null && echo read by {uid}") for uid in (20001, 1001))
    mount = f"mount -t nfs4 -o vers=4.2,soft,timeo=50,retrans=1 {FS}:/prescriptions /mnt"
    with _logged_in(hospital, "bruno"):
        after = hospital.root(ATTACKER, f"{mount}; {tries}; umount -l /mnt; pgrep -U 20001 -l")
    assert after.out == "read by 1001\n"


@pytest.fixture
def spoilt(hospital: Installation) -> Iterator[None]:
    """The attacker spoils its VM, which ends and starts afresh after the test, also when that fails."""
    yield
    (victim,) = pids("qemu-system", f"guest={ATTACKER},", f"{hospital.state}/")
    os.kill(victim, signal.SIGKILL)
    wait_for_agent(hospital, seconds=150)
    assert hospital.login("anna", "echo back").out == "back\n"


def test_a_hostile_answer_to_the_agent_is_cut_off(hospital: Installation, spoilt: None) -> None:
    """The VM's own programs answer the node without end: the login fails in a sentence, nothing else is disturbed."""
    hospital.root(ATTACKER, "printf '#!/bin/sh\\nexec cat /dev/zero\\n' > /usr/lib/vinci/app-login")
    since = hospital.next_audit()
    done = hospital.login("anna", "id")
    assert done.status == 3
    failed = hospital.wait_for_audit(since, lambda r: r["event"] == "operation-failed" and r.get("user") == "anna")
    assert (failed["vm"], "was cut off" in failed["message"]) == (ATTACKER, True)
    assert "Traceback" not in done.err
    assert hospital.login("sally", "echo fine").out == "fine\n"
    assert hospital.status()["agent_memory_mib"] < 150


def test_garbage_on_the_control_channel_makes_only_that_vm_unreachable(hospital: Installation, spoilt: None) -> None:
    since = hospital.next_audit()
    hospital.root(
        ATTACKER,
        "mount --bind /dev/null /usr/lib/vinci/__pycache__/channel.cpython-311.pyc &&"  # init starts it no more
        " setsid sh -c 'sleep 2; pkill -KILL -f [c]hannel.cpython; pkill -KILL sshd;"
        " while :; do cat /dev/urandom > /dev/virtio-ports/org.vinci.ssh; done' >/dev/null 2>&1 </dev/null &",
    )
    hospital.wait_for_audit(since, lambda r: r["event"] == "vm-unreachable" and r.get("vm") == ATTACKER, seconds=120)
    done = hospital.login("anna", "id")
    assert done.status == 3, done
    assert hospital.login("sally", "echo fine").out == "fine\n"
    states = {vm["name"]: vm["state"] for vm in hospital.status()["vms"]}
    assert states.pop(ATTACKER) == "unreachable"
    assert set(states.values()) == {"running"}


def _set_window(rows: int, columns: int, terminal: int = 0) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def test_a_terminal_behaves(hospital: Installation) -> None:
    """The window's own size counts, not what an outer shell left in the environment, and a change of it arrives."""
    child, master = pty.fork()
    if child == 0:
        os.environ.update(VINCI_STATE=str(hospital.state), TERM="xterm-256color", COLUMNS="80", LINES="24")
        _set_window(31, 97)
        os.execv(VINCI, [str(VINCI), "login", "sally"])
    _expect(master, rb"Password of sally: ")
    os.write(master, PASSWORD.encode() + b"\n")
    _expect(master, rb"\$ ")
    os.write(master, b"echo $TERM; stty size; tty\n")
    seen = _expect(master, rb"/dev/pts/\d+")
    assert b"xterm-256color" in seen
    assert re.search(rb"31 97", seen), seen
    tell = "trap 'stty size' WINCH; echo trapped $((40 + 2)); while :; do sleep 0.2; done"
    os.write(master, f'sh -c "{tell}"\n'.replace("$", r"\$").encode())
    _expect(master, rb"trapped 42")
    _set_window(50, 132, master)
    _expect(master, rb"50 132")
    os.write(master, b"\x03")
    _expect(master, rb"\$ ")
    os.write(master, b"sleep 100\n")
    time.sleep(1)
    os.write(master, b"\x03")
    _expect(master, rb"\$ ")
    os.write(master, b"exit 5\n")
    assert _wait_for_end(child, master) == 5
