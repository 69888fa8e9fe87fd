# SPDX-License-Identifier: GPL-2.0-or-later
"""plan and explain against the agent's real API, store and audit, on its Unix socket; only the VMs are missing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_agent import NOBODY, Running, running_agent
from test_reason import HOSPITAL, LEAK, LOG, LOG_READ, vinci
from typer.testing import CliRunner

from vinci.cli import declare
from vinci.cli.failure import Status
from vinci.cli.main import app
from vinci.model.problems import DeclarationError
from vinci.node.audit import Event
from vinci.node.in_force import derive

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the agent's API answers root only")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running_agent(monkeypatch) as running:
        yield running


def test_plan_against_what_is_in_force(agent: Running) -> None:
    text = HOSPITAL.read_text()
    new = vinci("plan", HOSPITAL)[1]
    assert new.startswith("nothing is in force: all of this is new\n")
    assert "+ doctors gains append on billing" in new
    assert json.loads(vinci("plan", HOSPITAL, "--json")[1])["in_force"] is None
    agent.accept(text)
    assert vinci("plan", HOSPITAL) == (0, "nothing to change\n")
    assert json.loads(vinci("plan", HOSPITAL, "--json")[1])["in_force"] == 1
    agent.accept(text.replace("{doctors: [append], administration: [read]}", "{administration: [read]}"))
    status, output = vinci("plan", HOSPITAL)
    assert status == Status.DOES_NOT_HOLD
    assert output.splitlines()[0] == "+ doctors gains append on billing"
    assert "gains read" not in output


def test_a_member_gets_the_declaration_without_hashes_and_root_gets_it_whole(
    agent: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = HOSPITAL.read_text()
    agent.accept(text)
    answers = {uid: json.loads(agent.asked("/v1/declaration", uid).partition(b"\r\n\r\n")[2]) for uid in (0, NOBODY)}
    assert answers[0]["text"] == text
    assert "argon2" not in answers[NOBODY]["text"]
    agent.accept(answers[NOBODY]["text"])  # what a member sees in force
    assert "change users.sally.password_hash of the file" in vinci("plan", HOSPITAL)[1]
    monkeypatch.setattr(declare, "_sees_hashes", lambda: False)
    assert vinci("plan", HOSPITAL) == (0, "nothing to change\n")
    status, output = vinci("explain", "nurses:sally", "write", "prescriptions")
    assert (status, "(/etc/hospital.yaml:" in output) == (0, True)


OLD_LABEL = "  billing:\n    server: files\n    label: accounts\n"
LOWER = OLD_LABEL.replace("accounts", "treatment")


def up(agent: Running, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[int, str]:
    """`up` as far as its question, where nobody can be asked: an agent runs, and images are of no interest."""

    async def runs(*_ignored: object) -> bool:
        return False

    monkeypatch.setattr(declare, "ensure_agent", runs)
    monkeypatch.setattr(declare, "_images", lambda *_: None)
    file = tmp_path / "file.yaml"
    file.write_text(text)
    return vinci("up", file, "--quiet")


def withdraw(agent: Running) -> None:
    async def put() -> None:
        agent.state.store.withdraw()

    agent.call(put())


def lowered(text: str) -> str:
    """The hospital with the bills at the doctors' label, where the labels let them write."""
    text = text.replace(OLD_LABEL, LOWER).replace(
        "{doctors: [append], administration", "{doctors: [write], administration"
    )
    assert LOWER in text
    return text.replace("  - that: only administration can read billing, log\n", "").replace(
        "except billing, log", "except log, billing"
    )


def test_a_down_is_no_way_around_the_question(agent: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hospital = HOSPITAL.read_text()
    agent.accept(hospital)
    withdraw(agent)
    assert "nothing is in force: all of this is new\n" in vinci("plan", HOSPITAL)[1]
    status, output = up(agent, lowered(hospital), monkeypatch, tmp_path)
    assert status == Status.DOES_NOT_HOLD
    assert "contents of share billing are relabelled from restricted {patients, finance} to" in output
    assert "nobody can be asked here" in output


def test_a_share_that_was_dropped_comes_back_lower(
    agent: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hospital = HOSPITAL.read_text()
    start, end = hospital.index("  billing:\n"), hospital.index("  log:\n")
    without = (hospital[:start] + hospital[end:]).replace("except billing, log", "except log")
    without = without.replace("can read billing, log", "can read log")
    for text in (hospital, without, without + "\n"):
        agent.accept(text)
    status, output = up(agent, lowered(hospital), monkeypatch, tmp_path)
    assert status == Status.DOES_NOT_HOLD
    assert "contents of share billing are relabelled from restricted {patients, finance} to" in output


def completed(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """What bash offers after a command line."""
    monkeypatch.setenv("_VINCI_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    return CliRunner().invoke(app, [], prog_name="vinci").output.split()


def test_a_shell_completes_users_and_vms(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(monkeypatch, "vinci login s") == [], "nothing is in force"
    agent.accept(HOSPITAL.read_text())
    assert completed(monkeypatch, "vinci login s") == ["sally"]
    assert completed(monkeypatch, "vinci passwd an") == ["anna"]
    assert completed(monkeypatch, "vinci login --node n2 s") == [], "another node"
    assert completed(monkeypatch, "vinci pas") == ["passwd"]

    async def status(*_: object) -> dict[str, object]:
        return {"vms": [{"name": "doctors-1"}, {"name": "doctors-fw"}, {"name": "files"}]}

    monkeypatch.setattr("vinci.node.api.status_of", status)
    for command in ("exec", "console", "inspect", "release", "shell"):
        assert completed(monkeypatch, f"vinci {command} doc") == ["doctors-1", "doctors-fw"]


def test_plan_and_explain_where_the_stored_file_no_longer_validates(agent: Running) -> None:
    agent.accept("vinci: 99\n")
    assert "no longer validates" in vinci("plan", HOSPITAL)[1]
    status, output = vinci("explain", "nurses", "read", "log")
    assert (status, "no longer validates" in output) == (Status.FAILED, True)


def test_explain_what_is_in_force(agent: Running) -> None:
    status, output = vinci("explain", "nurses", "read", "log")
    assert (status, "no declaration is in force" in output) == (Status.FAILED, True)
    agent.accept(HOSPITAL.read_text())
    status, output = vinci("explain", "nurses:sally", "write", "prescriptions")
    assert status == 0
    assert "(/etc/hospital.yaml:" in output


def test_explain_an_event(agent: Running) -> None:
    agent.accept(HOSPITAL.read_text())
    started = agent.record(Event.VM_STARTED, vm="files")
    denied = agent.record(
        Event.FILE_DENIED,
        **{"server": "files", "vm": "nurses-1", "uid": 20003, "reason": "denied", "share": "prescriptions"},
        **{"class": "file", "permissions": "write", "subject": "sally_u:nurses_r:nurses_t:s1:c0,c1"},
        target="vinci_u:object_r:prescriptions_share_t:s1:c0",
    )
    agent.record(Event.LOGIN_DENIED, user="anna", reason="wrong password")
    status, output = vinci("explain", "--event", denied)
    assert status == 0
    assert output.startswith(f"event {denied}: it happened\ndenied at: SELinux on FS-VM files\n")
    assert "DENIED: nurses:sally write prescriptions" in output
    assert len(output.splitlines()) < 24, "one screen"
    assert vinci("explain", "--event", denied, "--json")[0] == 0
    status, output = vinci("explain", "--event", started)
    assert (status, "vm-started: it is declared" in output) == (Status.DONE, True)
    status, output = vinci("explain", "--event", 999)
    assert (status, "no record 999" in output) == (Status.USAGE, True)


def test_the_agent_refuses_a_leak_whoever_asks() -> None:
    text = HOSPITAL.read_text()
    assert derive("n1", 1, "good.yaml", text.encode()).version == 1
    with pytest.raises(DeclarationError, match="administration sends requests to https") as refused:
        derive("n1", 1, "leaky.yaml", text.replace(*LEAK).encode())
    assert refused.value.problems[0].line == 1 + text.splitlines().index("  - from: administration")
    with pytest.raises(DeclarationError, match="nurses may read share log"):
        derive("n1", 1, "leaky.yaml", text.replace(LOG, LOG_READ).encode())
