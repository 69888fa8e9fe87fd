# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent can be killed at any moment, and it believes nobody: API attacks, crashes of the agent and of VMs."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from installation import VINCI, Installation
from processes import agents, pids, qemus, wait_for_agent


def _wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what no event tells."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_agent_loses_nothing(hospital: Installation) -> None:
    before = qemus(hospital)
    assert len(before) == len(hospital.status()["vms"])
    supervisor, agent = agents(hospital)
    os.kill(agent, signal.SIGKILL)
    wait_for_agent(hospital)
    assert qemus(hospital) == before
    assert supervisor in agents(hospital)
    assert "nothing changed" in hospital.check("up", str(hospital.file))
    assert hospital.login("sally", "echo still here").out == "still here\n"


def test_the_next_agent_records_what_a_firewall_denied_meanwhile_and_nothing_twice(hospital: Installation) -> None:
    def knock(port: int) -> None:
        # A datagram: TCP would repeat its request after a second, and that one be recorded too, or not.
        hospital.root("administration-1", f"bash -c 'printf x >/dev/udp/{hospital.address('nurses-1')}/{port}'")

    def denied(port: int) -> Callable[[dict[str, Any]], bool]:
        return lambda record: record["event"] == "flow-denied" and record.get("target_port") == str(port)

    def place() -> str:
        with sqlite3.connect(f"file:{hospital.state}/n1/node.db?mode=ro", uri=True) as database:
            rows = database.execute("select value from fact where name = 'events of administration-fw'").fetchall()
        return str(rows[0][0]) if rows else ""

    since, before = hospital.next_audit(), place()
    knock(4001)
    hospital.wait_for_audit(since, denied(4001))
    _wait_until(lambda: place() != before)
    number = sum(map(denied(4001), hospital.audit(since)))
    os.kill(agents(hospital)[1], signal.SIGKILL)
    wait_for_agent(hospital)
    knock(4002)
    hospital.wait_for_audit(since, denied(4002))
    assert sum(map(denied(4001), hospital.audit(since))) == number


def test_a_killed_agent_and_supervisor_are_replaced_by_the_next_up(hospital: Installation) -> None:
    before = qemus(hospital)
    for pid in agents(hospital):
        os.kill(pid, signal.SIGKILL)
    for words in (["status"], ["plan", str(hospital.file)], ["down"]):
        done = hospital.vinci(*words)
        assert (done.status, "has ended, what it started goes on" in done.err) == (3, True), done
    hospital.check("up", str(hospital.file))
    assert qemus(hospital) == before


def test_a_vm_that_ends_by_itself_is_started_again_and_recorded(hospital: Installation) -> None:
    since = hospital.next_audit()
    (victim,) = pids("qemu-system", "guest=doctors-1,", f"{hospital.state}/")
    os.kill(victim, signal.SIGKILL)
    hospital.wait_for_audit(since, lambda r: r["event"] == "vm-stopped" and r.get("vm") == "doctors-1")
    hospital.wait_for_audit(since, lambda r: r["event"] == "vm-started" and r.get("vm") == "doctors-1")
    wait_for_agent(hospital, seconds=120)
    assert hospital.login("anna", "cat ~/.vinci-verify >/dev/null && echo home").out == "home\n"


def test_a_stored_declaration_that_no_longer_validates_stops_nothing(hospital: Installation) -> None:
    before = qemus(hospital)
    since = hospital.next_audit()
    _supervisor, agent = agents(hospital)
    with sqlite3.connect(hospital.state / "n1" / "node.db") as database:
        database.execute("update declaration set text = ?", (b"vinci: 1\nname: hospital\nnonsense: true\n",))
    database.close()
    os.kill(agent, signal.SIGKILL)
    hospital.wait_for_audit(since, lambda r: r["event"] == "declaration-refused")
    report = hospital.status()
    assert "nonsense" in report["invalid_declaration"]
    assert qemus(hospital) == before
    assert "nonsense" in hospital.check("status")
    assert hospital.login("sally", "id").status == 3
    hospital.check("up", "--yes", str(hospital.file))  # what was in force cannot be compared
    assert qemus(hospital) == before
    assert hospital.login("sally", "echo back").out == "back\n"


def test_a_vm_that_restarts_itself_comes_back_whole(hospital: Installation) -> None:
    """It is started anew by the agent: with the rules and tables in force now, not with those of its first start.

    One that ends again and again is started later each time: who waits for it meanwhile does not take its channel.
    """
    for vm in ("doctors-1", "doctors-fw", "doctors-fw", "doctors-fw"):
        since = hospital.next_audit()
        hospital.root(vm, "sleep 1; echo b > /proc/sysrq-trigger")
        hospital.wait_for_audit(since, lambda r: r["event"] == "vm-started" and r.get("vm") == vm, seconds=60)  # noqa: B023
    wait_for_agent(hospital, seconds=120)
    assert hospital.login("anna", "echo back").out == "back\n"


def test_qemu_runs_unprivileged_under_seccomp(hospital: Installation) -> None:
    for pid in qemus(hospital):
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert status["Uid"].split()[0] != "0"
        assert status["Seccomp"].strip() == "2"
        assert int(status["CapEff"], 16) == 0


def _raw(hospital: Installation, data: bytes) -> bytes:
    """What the agent answers to these bytes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(hospital.state / "n1" / "agent.sock"))
        with contextlib.suppress(ConnectionError):  # the answer may be there before all of a huge request
            client.sendall(data)
        return client.recv(65536)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff" * 5000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/up HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
        b'POST /v1/password HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"user":1',
        b"POST /v1/password HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000,
        b"GET /v1/audit?since=minus HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/console?vm=../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_malformed_and_huge_requests_are_refused_and_disturb_nothing(hospital: Installation, data: bytes) -> None:
    since = hospital.next_audit()
    answer = _raw(hospital, data)
    assert answer.split()[1] in (b"400", b"404", b"413"), answer[:200]
    sentence = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert 10 < len(sentence) < 350, sentence
    record = hospital.wait_for_audit(since, lambda r: r["event"] == "api-denied")
    assert record["uid"] == 0
    assert sentence.removeprefix("the request is malformed: ") in record["message"]
    assert hospital.vinci("status").status == 0
    log = (hospital.state / "n1" / "agent.log").read_text()
    assert "Traceback" not in log, log[-3000:]


def test_a_broken_file_is_refused_and_what_runs_goes_on(hospital: Installation, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(hospital.file.read_text().replace("sally", "sally:\n  - nonsense\n#", 1))
    done = hospital.vinci("up", str(broken))
    assert done.status == 2
    assert "Traceback" not in done.err
    assert "broken.yaml:" in done.err
    assert "nothing changed" in hospital.check("up", str(hospital.file))


def test_many_requests_at_once_are_all_answered(hospital: Installation) -> None:
    with ThreadPoolExecutor(16) as pool:
        request = b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answers = list(pool.map(lambda _: _raw(hospital, request), range(64)))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


def test_a_member_who_takes_all_the_requests_he_gets_is_refused_more_and_keeps_nobody_out(
    hospital: Installation,
) -> None:
    script = """
import socket, sys, time
LOGIN = (
    "GET /v1/login HTTP/1.1\\r\\nHost: a\\r\\nConnection: upgrade\\r\\nUpgrade: websocket\\r\\n"
    "Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\n\\r\\n"
)
held = []
while True:
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    client.sendall(LOGIN.encode())
    answer = client.recv(4096)
    if not answer.startswith(b"HTTP/1.1 101"):
        break
    held.append(client)
print(answer.decode(), flush=True)
sys.stdin.read()
"""
    group, since = grp.getgrnam("vinci").gr_gid, hospital.next_audit()
    command = ["setpriv", "--reuid", "65534", "--regid", str(group), "--clear-groups", "/usr/bin/python3", "-c"]
    with subprocess.Popen(
        [*command, script, f"{hospital.state}/n1/agent.sock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as member:
        assert member.stdout is not None
        assert member.stdout.readline().startswith(b"HTTP/1.1 503")
        assert hospital.login("sally", "echo in").out == "in\n"
        member.communicate(b"")
    refused = hospital.wait_for_audit(since, lambda r: r["event"] == "api-denied" and r.get("uid") == 65534)
    assert "end one of them first" in refused["message"]


def test_a_stranger_on_the_node_cannot_use_the_agent(hospital: Installation) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c",
         f"import socket; socket.socket(socket.AF_UNIX).connect('{hospital.state}/n1/agent.sock')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "PermissionError" in done.stderr


def test_no_path_leads_from_the_host_into_a_vm_or_back(hospital: Installation) -> None:
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    namespace = hospital.status()["namespace"]
    inside = subprocess.run(
        ["ip", "-n", namespace, "-o", "-4", "address"], capture_output=True, text=True, check=True
    ).stdout
    assert "10.20." not in routes
    assert "10.20." not in inside


def test_a_member_of_the_group_may_log_in_and_look_and_administers_nothing(hospital: Installation) -> None:
    group = grp.getgrnam("vinci").gr_gid
    since = hospital.next_audit()

    def asked(method: str, path: str) -> bytes:
        script = (
            "import socket; s = socket.socket(socket.AF_UNIX); s.connect(ARGS[0]);"
            "s.sendall(ARGS[1].encode()); print(s.recv(65536).decode())"
        ).replace("ARGS", "__import__('sys').argv[1:]")
        request = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        command = ["setpriv", "--reuid", "65534", "--regid", str(group), "--clear-groups", "/usr/bin/python3", "-c"]
        done = subprocess.run(
            [*command, script, f"{hospital.state}/n1/agent.sock", request], capture_output=True, check=True
        )
        return done.stdout

    assert asked("GET", "/v1/status").startswith(b"HTTP/1.1 200")
    for method, path in (
        *(("POST", f"/v1/{verb}") for verb in ("up", "down", "verify", "password")),
        *(("GET", f"/v1/{verb}") for verb in ("exec", "audit", "console", "nonsense")),
    ):
        answer = asked(method, path)
        assert answer.startswith(b"HTTP/1.1 403"), path
        assert b"only root may do this" in answer
    hospital.wait_for_audit(since, lambda r: r["event"] == "api-denied" and r.get("uid") == 65534)


def test_what_nobody_reads_any_more_ends(hospital: Installation) -> None:
    """`| head -1`: the command ends as SIGPIPE would end it, and with it what it ran in the VM."""
    words = f"{VINCI} exec doctors-1 -- yes | head -1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "VINCI_STATE": str(hospital.state)}
    done = subprocess.run(
        ["bash", "-c", words], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    assert (done.stdout, done.stderr) == ("y\n141\n", "")
    assert hospital.root("doctors-1", "timeout 60 sh -c 'while pgrep -x yes; do sleep 0.1; done'").status == 0
