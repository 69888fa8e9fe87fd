# SPDX-License-Identifier: GPL-2.0-or-later
"""Root in an APP-VM where somebody is logged in: it may act as that user, and as nobody else, from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attackers import ATTACKER, FS, GATEWAY, HERE, NURSES, OWN, as_uid, install, mac
from installation import Installation
from terminals import logged_in


@pytest.fixture(scope="module", autouse=True)
def anna(hospital: Installation) -> Iterator[None]:
    """Anna is logged in on the attacker's VM while all tests here run."""
    with logged_in(hospital, "anna"):
        yield


@pytest.fixture(scope="module")
def raw_nfs(hospital: Installation) -> str:
    return install(hospital, HERE / "fs_rig" / "raw_nfs.py")


def test_uids_that_are_not_logged_in_here_get_nothing(hospital: Installation) -> None:
    """Another UID of the community (bruno), one of another community (sally), one of nobody, and root."""
    since = hospital.next_audit()
    tries = "; ".join(
        as_uid(uid, f"cat /mnt/.vinci-verify >/dev/null && echo got {uid}")
        for uid in (20002, 1001, 20003, 4242, 0, 20001)
    )
    options = "vers=4.2,soft,timeo=50,retrans=1"
    done = hospital.root(ATTACKER, f"mount -t nfs4 -o {options} {FS}:/prescriptions /mnt; {tries}; umount -l /mnt")
    assert done.out == "got 20001\n"  # who is logged in
    hospital.wait_for_audit(since, lambda r: r["event"] == "file-denied" and r.get("vm") == ATTACKER)


@pytest.mark.parametrize(("address", "reason"), [("10.20.1.77", "spoofed-arp"), (NURSES, "spoofed-ip")])
def test_nothing_is_mounted_by_another_address(hospital: Installation, raw_nfs: str, address: str, reason: str) -> None:
    """One of the own community that no VM has, and the nurses', with the server's MAC already known.

    Anna is logged in: from its own address root may mount now. Each attempt has a connection of its own.
    """
    known = f"ip neighbour replace {FS} lladdr {mac(FS)} dev eth0 nud permanent" if reason == "spoofed-ip" else ":"
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


def test_root_may_act_as_who_is_logged_in_here_and_as_nobody_else(hospital: Installation, raw_nfs: str) -> None:
    handle = hospital.root(ATTACKER, f"python3 {raw_nfs} {FS} 0 mount /srv/prescriptions").out.split()
    assert handle[0] == "0", handle
    allowed = hospital.root(ATTACKER, f"python3 {raw_nfs} {FS} 20001 getattr {handle[1]}")
    assert allowed.out.split()[0] == "0"
    for uid in (20002, 20003, 20004, 1001, 4242, 0):
        since = hospital.next_audit()
        denied = hospital.root(ATTACKER, f"python3 {raw_nfs} {FS} {uid} lookup {handle[1]} .vinci-verify")
        assert denied.out.split()[:1] != ["0"], (uid, denied)
        _wait_for_denied_file(hospital, since, ATTACKER, uid)


def test_a_file_handle_means_nothing_to_another_community(hospital: Installation, raw_nfs: str) -> None:
    handle = hospital.root(ATTACKER, f"python3 {raw_nfs} {FS} 0 mount /srv/prescriptions").out.split()
    install(hospital, HERE / "fs_rig" / "raw_nfs.py", "administration-1")
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
