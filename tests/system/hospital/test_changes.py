# SPDX-License-Identifier: GPL-2.0-or-later
"""The declaration changes, and machines die, while people work."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from installation import PASSWORD, VINCI, Installation
from processes import pids, wait_for_agent


@pytest.fixture
def declare(hospital: Installation, tmp_path: Path) -> Iterator[object]:
    """Puts a changed declaration in force; the original one comes back at the end."""

    def change(*steps: tuple[tuple[str, ...], object]) -> str:
        data = yaml.safe_load(hospital.file.read_text())
        data.pop("expect", None)
        for path, value in steps:
            place = data
            for key in path[:-1]:
                place = place[key]
            if value is None:
                del place[path[-1]]
            else:
                place[path[-1]] = value
        file = tmp_path / "changed.yaml"
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        return hospital.check("up", "--yes", str(file))

    yield change
    hospital.check("up", "--yes", str(hospital.file))


def _background_login(hospital: Installation, user: str, script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [VINCI, "login", user, "--", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "VINCI_STATE": str(hospital.state)},
    )
    assert process.stdin is not None
    process.stdin.write(PASSWORD + "\n")
    process.stdin.flush()
    return process


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_withdrawn_right_ends_with_the_next_request_on_an_open_file(hospital: Installation, declare) -> None:  # type: ignore[no-untyped-def]
    file = "/shares/prescriptions/.vinci-verify"
    session = _background_login(
        hospital, "anna", f"exec 3>>{file}; echo open; read x; printf . >&3 && sync {file} && echo stored"
    )
    assert _line(session) == "open"
    changes = declare((("shares", "prescriptions", "access"), {"doctors": ["read"], "nurses": ["read"]}))
    assert "restart" not in changes
    assert "files got new rules" in changes
    out, _err = session.communicate("go\n", timeout=120)
    assert "stored" not in out
    assert hospital.login("anna", f"cat {file} >/dev/null && echo reads").out == "reads\n"


def test_a_user_who_is_removed_is_out_at_once(hospital: Installation, declare) -> None:  # type: ignore[no-untyped-def]
    since = hospital.next_audit()
    session = _background_login(hospital, "anna", "echo in; read x; cat ~/.vinci-verify && echo still in")
    assert _line(session) == "in"
    user = yaml.safe_load(hospital.file.read_text())["users"]["bruno"]
    declare(
        (("users", "anna"), None),
        (("shares", "project", "access"), {"doctors:bruno": ["read", "write"], "nurses": ["read"]}),
    )
    hospital.wait_for_audit(since, lambda r: r["event"] == "logout" and r.get("user") == "anna")
    out, _err = session.communicate("go\n", timeout=120)
    assert "still in" not in out
    assert hospital.login("anna", "id").status == 1
    assert user["uid"] == 20002


def test_what_rests_on_an_old_uid_or_label_ends_before_another_is_in_force(hospital: Installation, declare) -> None:  # type: ignore[no-untyped-def]
    """A process that outlived the change would be, to the file server, the user who has its UID now; and a VM's memory
    holds what was read under the old label."""
    outlive = "echo mine >/tmp/of-anna; setsid sh -c 'while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &"
    anna = _background_login(hospital, "anna", f"{outlive} echo in; read x; cat ~/.vinci-verify && echo still in")
    sally = _background_login(hospital, "sally", "echo in; read x; echo still in")
    assert (_line(anna), _line(sally)) == ("in", "in")
    found = "pgrep -u 20001,1001; ls /tmp/of-anna"
    assert hospital.root("doctors-1", found).out.splitlines()[-1] == "/tmp/of-anna"
    since = hospital.next_audit()
    changes = declare(
        (("users", "anna", "communities", "doctors"), {"local_uid": 1001}),
        (("users", "bruno", "communities", "doctors"), {"local_uid": 20001}),
        (("labels", "named", "care"), {"level": "restricted", "categories": ["ward", "patients"]}),
    )
    assert "VM nurses-1 stopped: its community has another label" in changes
    for session in (anna, sally):
        out, _err = session.communicate("go\n", timeout=120)
        assert "still in" not in out

    records = hospital.audit(since)
    in_force = next(r["id"] for r in records if r["event"] == "declaration")
    ended = {r["user"]: r["id"] for r in records if r["event"] == "logout"}
    assert ended.keys() == {"anna", "sally"}
    assert max(ended.values()) < in_force
    order = [r["event"] for r in records if r.get("vm") == "nurses-1" or r["id"] == in_force]
    assert order.index("vm-stopped") < order.index("declaration") < order.index("vm-started")
    assert [r["vm"] for r in records if r["event"] == "vm-stopped"] == ["nurses-1"]

    assert hospital.root("doctors-1", found).out == ""
    assert hospital.login("anna", "id -u; cat ~/.vinci-verify >/dev/null && echo at home").out == "1001\nat home\n"
    assert hospital.login("sally", "id -un").out == "sally\n"


def test_dedicated_vms_are_made_for_a_login_and_go_with_it(hospital: Installation, declare) -> None:  # type: ignore[no-untyped-def]
    declare((("communities", "administration", "app_vms"), {"mode": "per-user"}))
    names = {vm["name"]: vm["state"] for vm in hospital.status()["vms"] if vm["kind"] == "APP-VM"}
    assert names["administration-carla"] == "not in use"
    since = hospital.next_audit()
    assert hospital.login("carla", "hostname").out == "administration-carla\n"
    hospital.wait_for_audit(since, lambda r: r["event"] == "vm-stopped" and r.get("vm") == "administration-carla")


def test_a_crashed_file_server_loses_nothing_and_clients_go_on(hospital: Installation) -> None:
    script = """
    echo before > ~/kept; sync ~/kept; echo stored
    read x
    echo after >> ~/kept && sync ~/kept && cat ~/kept
    """
    session = _background_login(hospital, "sally", script)
    assert _line(session) == "stored"
    since = hospital.next_audit()
    (server,) = pids("qemu-system", "guest=files,", f"{hospital.state}/")
    os.kill(server, signal.SIGKILL)
    hospital.wait_for_audit(since, lambda r: r["event"] == "vm-started" and r.get("vm") == "files", seconds=60)
    wait_for_agent(hospital, seconds=180)
    out, err = session.communicate("go\n", timeout=240)
    assert out.split() == ["before", "after"], (out, err)


def test_a_change_is_told_as_flows_and_a_new_way_down_is_asked_for(hospital: Installation, tmp_path: Path) -> None:
    version = hospital.status()["declaration"]["version"]
    data = yaml.safe_load(hospital.file.read_text())
    data.pop("expect")
    data["shares"]["billing"]["access"] = {"doctors": ["append"], "nurses": ["append"], "administration": ["read"]}
    reason = "nurses write down hours and nothing else"
    data["shares"]["billing"]["trusted"] = {"communities": ["nurses"], "reason": reason}
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))

    planned = hospital.vinci("plan", str(file))
    assert planned.status == 1
    assert "+ nurses gains append on billing" in planned.out
    assert "! information of nurses gets down to share billing" in planned.out
    assert "change shares, policy and subjects of files" in planned.out

    refused = hospital.vinci("up", str(file))  # its standard input is no terminal
    assert refused.status == 1
    assert "! information of nurses gets down to share billing" in refused.err
    assert "repeat with --yes" in refused.err
    assert hospital.status()["declaration"]["version"] == version
    assert hospital.login("sally", "echo x >> /shares/billing/.t").status != 0

    try:
        hospital.check("up", "--yes", str(file))
        assert hospital.vinci("plan", str(file)).out.strip() == "nothing to change"
        back = hospital.vinci("plan", str(hospital.file)).out
        assert "- nurses loses append on billing" in back
        assert "!" not in back
    finally:
        hospital.check("up", str(hospital.file))  # what only closes ways is not asked about
