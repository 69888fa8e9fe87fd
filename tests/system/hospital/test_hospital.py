# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job: the hospital runs, and what is enforced is what was declared."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

from installation import PASSWORD, VINCI, Installation
from tamper import SELINUX_ENFORCING, changed_byte
from watching import wait_for


def test_second_up_changes_nothing_and_says_so(hospital: Installation) -> None:
    assert "nothing changed" in hospital.check("up", str(hospital.file))


def test_plan_after_up_has_nothing_to_change(hospital: Installation) -> None:
    done = hospital.vinci("plan", str(hospital.file))
    assert (done.status, done.out.strip()) == (0, "nothing to change")


def test_plan_names_a_change_and_says_so_by_its_status(hospital: Installation, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(hospital.file.read_text().replace("doctors: [append]", "doctors: [append, write]", 1))
    done = hospital.vinci("plan", str(changed))
    assert done.status in (1, 2), done


def test_status_shows_every_vm_running(hospital: Installation) -> None:
    report = hospital.status()
    assert {vm["state"] for vm in report["vms"]} == {"running"}
    assert {vm["kind"] for vm in report["vms"]} == {"APP-VM", "FS-VM", "FW-VM"}


@contextmanager
def _opened_by_hand(hospital: Installation) -> Iterator[None]:
    """The file server's SELinux enforces nothing, and two firewalls let everything through."""
    accept = "nft -e -a insert rule inet vinci forward accept | sed -n 's/.*handle //p'"
    rules = {vm: hospital.root(vm, accept).out.split()[-1] for vm in ("administration-fw", "nurses-fw")}
    try:
        with changed_byte(hospital, "files", SELINUX_ENFORCING, 1):
            yield
    finally:
        for vm, handle in rules.items():
            assert hospital.root(vm, f"nft delete rule inet vinci forward handle {handle}").status == 0
        # What was let through meanwhile stays in the kernel's cache of decisions until a policy is loaded.
        assert hospital.root("files", "/usr/lib/vinci/fs-policy </run/vinci/policy").status == 0


def test_what_was_opened_by_hand_is_a_mismatch_and_what_explains_it_is_kept(
    hospital: Installation, tmp_path: Path
) -> None:
    report = tmp_path / "verify.xml"
    with _opened_by_hand(hospital):
        done = hospital.vinci("verify", "--json", "--junit", str(report))
        assert done.status == 1, done
    found = json.loads(done.out)
    told = {mismatch["message"] for mismatch in found["mismatches"]}
    for name in (
        *(f"nurses:sally {operation} prescriptions" for operation in ("write", "execute")),
        "nurses:sally read billing",
        "administration-1 tcp/22 nurses-1 (10.20.2.10)",
        "administration-1 udp/111 nurses-1 (10.20.2.10)",
    ):
        assert f"{name}: declared no, measured yes" in told, told
    assert "files is trusted: declared yes, measured no" in told
    assert not [text for text in told if "doctors-1 tcp" in text], told  # their firewall is as it was
    assert ET.parse(report).getroot().get("failures") == str(len(told))
    bundle = Path(found["bundle"])
    assert bundle.parent == hospital.state / "n1" / "evidence"
    kept = {path.name: path.read_text() for path in bundle.iterdir()}
    assert json.loads(kept["checks.json"]) == found["checks"]
    assert "VM files is compromised" in kept["audit.jsonl"]
    assert "chain forward" in kept["administration-fw.txt"]
    assert "table bridge vinci" in kept["bridge-rules.nft"]
    assert kept["agent.log"]
    assert {"status.json", "bridge-rules.nft", "files.txt", "files.console.txt", "doctors-1.txt"} <= kept.keys()
    assert "No such file" not in kept["files.txt"]
    wait_for(hospital, lambda trust: trust["files"]["releasable"])
    hospital.check("release", "files", "--reason", "the test has put everything back")


def test_what_is_enforced_is_what_was_declared(hospital: Installation, tmp_path: Path) -> None:
    report = tmp_path / "verify.xml"
    done = hospital.vinci("verify", "--json", "--junit", str(report))
    found = json.loads(done.out)
    assert [mismatch["message"] for mismatch in found["mismatches"]] == []
    assert done.status == 0
    assert found["checked"] > 300
    suite = ET.parse(report).getroot()
    assert suite.get("failures") == "0"
    assert len(suite) == found["checked"]


def test_a_user_works_in_the_community(hospital: Installation) -> None:
    done = hospital.login(
        "sally", "id -un; hostname; pwd; cat /shares/prescriptions/.vinci-verify >/dev/null && echo read"
    )
    assert (done.status, done.out.split()) == (0, ["sally", "nurses-1", "/home/sally", "read"])


def test_exit_status_and_streams_of_a_command_come_through(hospital: Installation) -> None:
    done = hospital.login("sally", "echo out; echo err >&2; exit 7")
    assert (done.status, done.out, done.err) == (7, "out\n", "err\n")


def test_wrong_password_is_denied_and_recorded(hospital: Installation) -> None:
    since = hospital.next_audit()
    done = hospital.login("sally", "id", password="wrong")
    assert (done.status, done.out) == (1, "")
    record = hospital.wait_for_audit(since, lambda r: r["event"] == "login-denied")
    assert record["user"] == "sally"


def test_a_user_cannot_enter_a_foreign_community(hospital: Installation) -> None:
    done = hospital.login("sally", "id", "--community", "doctors")
    assert done.status == 1


def test_a_user_has_the_same_rights_over_nfs_version_3(hospital: Installation) -> None:
    options = "vers=3,proto=tcp,mountproto=tcp,port=2049,mountport=20048,nolock,sec=sys"
    with _logged_in(hospital, "sally"):  # UID 0 may mount, too, only while somebody is logged in there
        server = hospital.login("sally", "sed -n 's/:.prescriptions .*//p' /proc/mounts").out.strip()
        mount = f"mkdir -p /run/v3 && mount -t nfs -o {options} {server}:/srv/prescriptions /run/v3"
        done = hospital.root("nurses-1", mount)
        assert done.status == 0, done
        try:
            file = "/run/v3/.vinci-verify"
            done = hospital.login("sally", f"cat {file} >/dev/null && echo read; echo x >>{file} || echo refused")
            assert done.out.split() == ["read", "refused"], done
            done = hospital.root("nurses-1", f"cat {file}")
            assert done.status != 0, "UID 0 has no subject"
        finally:
            assert hospital.root("nurses-1", "umount /run/v3").status == 0


@contextmanager
def _logged_in(hospital: Installation, user: str) -> Iterator[None]:
    """The user has a session meanwhile."""
    words = [str(VINCI), "login", user, "--", "sh", "-c", "echo in; exec sleep 600"]
    environment = {**os.environ, "VINCI_STATE": str(hospital.state)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        try:
            session.stdin.write(f"{PASSWORD}\n".encode())
            session.stdin.flush()
            assert session.stdout.readline() == b"in\n"
            yield
        finally:
            session.kill()
