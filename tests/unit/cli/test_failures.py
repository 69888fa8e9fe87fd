# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever does not work ends a command with status 3 and one sentence, and is never taken for an answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_reason import HOSPITAL, vinci

from vinci.cli.client import ensure_agent
from vinci.cli.failure import Failure, Status
from vinci.cli.main import main
from vinci.node.paths import NodePaths
from vinci.store.sqlite import Store


@pytest.fixture
def socket_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the agent of a node would listen."""
    with tempfile.TemporaryDirectory(prefix="vinci-u-", dir="/tmp") as folder:  # a socket's path is short
        monkeypatch.setenv("VINCI_STATE", folder)
        path = Path(folder, "n1", "agent.sock")
        path.parent.mkdir()
        yield path


def _ended(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """The exit status of the real entry point."""
    monkeypatch.setattr(sys, "argv", ["vinci", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_nothing_is_in_force_where_nobody_listens(socket_path: Path) -> None:
    new = vinci("plan", HOSPITAL)
    assert (new[0], "+ doctors gains" in new[1]) == (Status.DOES_NOT_HOLD, True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path))
    assert vinci("plan", HOSPITAL) == new, "an agent was killed"


def test_down_is_done_where_nothing_is_up(socket_path: Path) -> None:
    assert vinci("down") == (Status.DONE, "nothing is up here\n")
    assert vinci("down", "--node", "n1")[1].strip() == "nothing is up here"
    assert json.loads(vinci("down", "--json")[1]) == {"node": None, "changes": [], "failed": []}


@pytest.mark.parametrize("named", [(), ("--node", "n1")])
def test_what_is_in_force_is_not_taken_for_nothing_when_its_agent_is_gone(
    socket_path: Path, named: tuple[str, ...]
) -> None:
    """As after a start of the machine: its VMs would come back with the agent."""
    store = Store(socket_path.parent / "node.db")
    store.accept("/etc/hospital.yaml", b"", 0.0)
    for words in (("status",), ("plan", HOSPITAL), ("down",)):
        status, output = vinci(*words, *named)
        assert (status, "no agent of node n1 runs, but a declaration is in force" in output) == (Status.FAILED, True)
    store.withdraw()
    store.close()
    status, output = vinci("down", *named)
    assert (status, output.strip()) == (Status.DONE, "nothing is up here")


def test_vms_that_outlived_their_agent_are_not_nothing(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodePaths, "may_run", True)
    for words in (("status",), ("plan", HOSPITAL), ("down",)):
        status, output = vinci(*words)
        assert (status, "has ended, what it started goes on" in output) == (Status.FAILED, True)


def test_closed_standard_streams_are_no_error_of_the_program() -> None:
    program = "import sys; from vinci.cli.main import main; sys.argv[0] = 'vinci'; main()"
    for closed in ("<&-", ">&-", "<&- >&-"):
        words = f'exec {sys.executable} -c "$0" check {HOSPITAL} {closed}'
        done = subprocess.run(["sh", "-c", words, program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (Status.DONE, ""), closed


@pytest.mark.parametrize(
    "words", [("check", HOSPITAL), ("flows", HOSPITAL), ("schema",), ("check", HOSPITAL, "--json")]
)
def test_a_reader_that_has_seen_enough_is_no_failed_check(words: tuple[object, ...]) -> None:
    """`vinci check FILE | head -1`: silence, and the status that the shell gives a program that SIGPIPE ended."""
    program = "import sys; from vinci.cli.main import main; sys.argv[0] = 'vinci'; main()"
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", program, *map(str, words)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("words", [("check", HOSPITAL), ("schema",), ("check", HOSPITAL, "--json")])
def test_an_answer_that_cannot_be_written_is_a_sentence(words: tuple[object, ...]) -> None:
    program = "import sys; from vinci.cli.main import main; sys.argv[0] = 'vinci'; main()"
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", program, *map(str, words)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (Status.FAILED, "vinci: No space left on device\n")


def test_an_agent_that_does_not_answer_is_not_nothing_in_force(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(socket_path))
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(str(socket_path))
        status, output = vinci("plan", HOSPITAL)
        for each in waiting:
            each.close()
    assert (status, "n1" in output, "gains" in output) == (Status.FAILED, True, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes a user who may not use the agent")
def test_who_may_not_ask_learns_so_and_not_that_nothing_is_in_force(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(socket_path))
        agent.listen()
        socket_path.chmod(0o600)
        socket_path.parents[1].chmod(0o755)
        os.seteuid(65534)
        try:
            status, output = vinci("plan", HOSPITAL)
        finally:
            os.seteuid(0)
    assert (status, output) == (Status.FAILED, "only root and members of the group vinci may use the agent")


def test_an_error_of_the_system_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_node: str | None) -> NodePaths:
        raise PermissionError(13, "Permission denied", "/var/lib/vinci")

    monkeypatch.setattr("vinci.cli.observe.node_paths", broken)
    assert _ended(monkeypatch, "status") == Status.FAILED
    assert capsys.readouterr().err == "vinci: /var/lib/vinci: Permission denied (root may)\n"


def test_an_agent_that_cannot_be_started_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"the agent of node n1 cannot be started: .*/file/n1: Not a directory") as failed:
        asyncio.run(ensure_agent(NodePaths(tmp_path / "file", "n1"), None, tmp_path))
    assert failed.value.status is Status.FAILED


def test_a_report_that_cannot_be_written_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, socket_path: Path
) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr("vinci.cli.observe.follow", measured)
    socket_path.touch()
    status, output = vinci("verify", "--junit", socket_path / "report.xml")
    assert (status, "the JUnit report cannot be written" in output) == (Status.FAILED, True)


def test_a_broken_setting_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("VINCI_CONFIG", str(tmp_path))
    (tmp_path / "a.toml").write_text("node = 7\n")
    assert _ended(monkeypatch, "status") == Status.USAGE
    assert capsys.readouterr().err == f'vinci: {tmp_path}/a.toml: node has to be a string: node = "…"\n'


def test_a_file_without_this_machines_node_is_wrong_usage(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> None:
    monkeypatch.setenv("VINCI_NODE", "ward7")
    status, output = vinci("up", HOSPITAL)
    assert status == Status.USAGE
    assert output == (
        "the file declares no node ward7, which this machine is by its settings: "
        "declare it, or change `node` (VINCI_NODE)"
    )
    Store(socket_path.parent / "node.db").close()
    for words in (("status",), ("plan", HOSPITAL), ("down",)):
        status, output = vinci(*words)
        assert status == Status.USAGE
        assert output.strip() == f"there is no node ward7 in {socket_path.parents[1]}: there is n1"
