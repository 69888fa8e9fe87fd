# SPDX-License-Identifier: GPL-2.0-or-later
"""plan and explain against the agent's real API, store and audit, on its Unix socket; only the VMs are missing."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_reason import HOSPITAL, LEAK, vinci

from vinci.cli.failure import Status
from vinci.model.problems import DeclarationError
from vinci.node.agent import Agent
from vinci.node.api import serve
from vinci.node.audit import Audit, Event, Severity
from vinci.node.paths import NodePaths
from vinci.store.sqlite import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the agent's API answers root only")


class Running:
    """An agent's API on its own thread."""

    def __init__(self, paths: NodePaths) -> None:
        self.paths = paths
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.state = self.call(self._start())

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def _start(self) -> SimpleNamespace:
        state = SimpleNamespace(store=Store(self.paths.database), audit=Audit(self.paths.audit))
        self.runner = await serve(cast(Agent, state), self.paths.api_socket)
        return state

    def accept(self, text: str) -> None:
        async def put() -> None:
            self.state.store.accept("/etc/hospital.yaml", text.encode(), 0.0)

        self.call(put())

    def record(self, event: Event, **fields: str | int) -> int:
        async def put() -> int:
            number: int = self.state.audit.next_id
            self.state.audit.record(event, Severity.WARNING, "it happened", **fields)
            return number

        return int(self.call(put()))

    def stop(self) -> None:
        self.call(self.runner.cleanup())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    folder = Path(tempfile.mkdtemp(prefix="vinci-u-", dir="/tmp"))  # a socket's path is short
    monkeypatch.setenv("VINCI_STATE", str(folder))
    paths = NodePaths(folder, "n1")
    paths.root.mkdir(parents=True)
    running = Running(paths)
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


def test_plan_against_what_is_in_force(agent: Running) -> None:
    text = HOSPITAL.read_text()
    assert "+ doctors gains append on billing" in vinci("plan", HOSPITAL)[1], "nothing is in force"
    agent.accept(text)
    assert vinci("plan", HOSPITAL) == (0, "nothing to change\n")
    agent.accept(text.replace("{doctors: [append], administration: [read]}", "{administration: [read]}"))
    status, output = vinci("plan", HOSPITAL)
    assert status == Status.DOES_NOT_HOLD
    assert output.splitlines()[0] == "+ doctors gains append on billing"
    assert "gains read" not in output


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


def test_the_agent_refuses_a_leak_whoever_asks(tmp_path: Path) -> None:
    state = cast(Agent, SimpleNamespace(paths=NodePaths(tmp_path, "n1")))
    text = HOSPITAL.read_text()
    assert Agent._derive(state, 1, "good.yaml", text.encode()).version == 1
    with pytest.raises(DeclarationError, match="administration sends requests to https") as refused:
        Agent._derive(state, 1, "leaky.yaml", text.replace(*LEAK).encode())
    assert refused.value.problems[0].line == 1 + text.splitlines().index("  - from: administration")
