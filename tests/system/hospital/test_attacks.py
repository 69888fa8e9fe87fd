# SPDX-License-Identifier: GPL-2.0-or-later
"""Root in an APP-VM attacks everything around it. Each attempt is denied, recorded, and disturbs nobody else.

That each rule matters is shown where it can be taken away: tests/system/test_network.py and tests/system/fs_rig.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import time
from collections.abc import Iterator

import pytest
from attackers import ATTACKER, FS, GATEWAY, HERE, NURSES, NURSES_FS, OWN, as_uid, install, mac
from installation import PASSWORD, VINCI, Installation
from processes import pids, wait_for_agent
from terminals import expect, logged_in, set_window, wait_for_end


@pytest.fixture(scope="module")
def forge(hospital: Installation) -> str:
    return install(hospital, HERE / "forge.py")


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
    words = f"{kind} {mac(OWN)} {OWN} {mac(GATEWAY)} {target}"
    done = hospital.root(ATTACKER, f"python3 {forge} {words}")
    assert done.status == 0, done
    record = hospital.wait_for_audit(since, lambda r: r["event"] == "packet-dropped" and r.get("reason") == reason)
    assert record["vm"] == ATTACKER


def test_no_connection_leaves_the_community(hospital: Installation) -> None:
    """Other VCNs, the transit network; the last one would be the bridge's. The own file server is reached so."""
    since, targets = hospital.next_audit(), [NURSES, NURSES_FS, "10.20.2.1", "10.255.0.2", "10.20.1.254"]
    places = (f"{FS}/2049", *(f"{target}/22" for target in targets))
    tries = " & ".join(f"timeout 4 bash -c 'exec 3<>/dev/tcp/{place}' && echo {place}" for place in places)
    assert hospital.root(ATTACKER, f"{tries} & wait").out == f"{FS}/2049\n"
    for target in targets:
        record = hospital.wait_for_audit(since, lambda r, to=target: r.get("claimed_target") == to)
        assert (record["event"], record["vm"]) == ("packet-dropped", ATTACKER)


def test_an_undeclared_service_does_not_cross_and_is_recorded(hospital: Installation) -> None:
    """Administration may reach the nurses' HTTPS: the bridge lets it to its FW-VM, which lets nothing else cross."""
    since = hospital.next_audit()
    done = hospital.root("administration-1", f"timeout 4 bash -c 'exec 3<>/dev/tcp/{NURSES}/22'; echo status=$?")
    assert "status=0" not in done.out
    record = hospital.wait_for_audit(since, lambda r: r["event"] == "flow-denied")
    assert (record["vm"], record["firewall"], record["target_port"]) == ("administration-1", "administration-fw", "22")


def test_logging_out_ends_the_right_at_once(hospital: Installation) -> None:
    script = (
        "(sleep 1000 </dev/null >/dev/null 2>&1 &) ; cat /shares/prescriptions/.vinci-verify >/dev/null && echo read"
    )
    assert hospital.login("anna", script).out == "read\n"
    tries = "; ".join(as_uid(uid, f"cat /mnt/.vinci-verify >/dev/null && echo read by {uid}") for uid in (20001, 1001))
    mount = f"mount -t nfs4 -o vers=4.2,soft,timeo=50,retrans=1 {FS}:/prescriptions /mnt"
    with logged_in(hospital, "bruno"):
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


def test_a_terminal_behaves(hospital: Installation) -> None:
    """The window's own size counts, not what an outer shell left in the environment, and a change of it arrives."""
    child, master = pty.fork()
    if child == 0:
        os.environ.update(VINCI_STATE=str(hospital.state), TERM="xterm-256color", COLUMNS="80", LINES="24")
        set_window(31, 97)
        os.execv(VINCI, [str(VINCI), "login", "sally"])
    expect(master, rb"Password of sally: ")
    os.write(master, PASSWORD.encode() + b"\n")
    expect(master, rb"\$ ")
    os.write(master, b"echo $TERM; stty size; tty\n")
    seen = expect(master, rb"/dev/pts/\d+")
    assert b"xterm-256color" in seen
    assert re.search(rb"31 97", seen), seen
    tell = "trap 'stty size' WINCH; echo trapped $((40 + 2)); while :; do sleep 0.2; done"
    os.write(master, f'sh -c "{tell}"\n'.replace("$", r"\$").encode())
    expect(master, rb"trapped 42")
    set_window(50, 132, master)
    expect(master, rb"50 132")
    os.write(master, b"\x03")
    expect(master, rb"\$ ")
    os.write(master, b"sleep 100\n")
    time.sleep(1)
    os.write(master, b"\x03")
    expect(master, rb"\$ ")
    os.write(master, b"exit 5\n")
    assert wait_for_end(child, master) == 5
