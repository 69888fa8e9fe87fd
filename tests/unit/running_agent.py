# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's real API, store and audit on a Unix socket, without VMs; and clients of any UID."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vinci.node import api, authorize
from vinci.node.agent import Agent
from vinci.node.audit import Audit, Event, Severity
from vinci.node.paths import NodePaths
from vinci.store.sqlite import Store

NOBODY = 65534
"""A UID, and the group of all UIDs but root that the tests use: it stands for the group `vinci`."""


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
        state = SimpleNamespace(
            store=Store(self.paths.database), audit=Audit(self.paths.audit), paths=self.paths, in_force=None
        )
        self.runner = await api.serve(cast(Agent, state), self.paths.api_socket)
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

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.paths.audit.read_text().splitlines()]

    def connections(self, number: int, uid: int = NOBODY) -> list[socket.socket]:
        """Connections that a process of this UID made."""
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(OSError):
                os.setgroups([])
                os.setgid(NOBODY if uid else 0)
                os.setuid(uid)
                for _ in range(number):
                    client = socket.socket(socket.AF_UNIX)
                    client.connect(str(self.paths.api_socket))
                    socket.send_fds(theirs, [b"x"], [client.fileno()])
                status = 0
            os._exit(status)
        theirs.close()
        made = []
        with ours:
            while files := socket.recv_fds(ours, 1, 1)[1]:
                made += [socket.socket(fileno=file) for file in files]
        assert os.waitpid(child, 0)[1] == 0
        for client in made:
            client.settimeout(10)
        return made

    def asked(self, request: str | bytes, uid: int = NOBODY) -> bytes:
        """What the agent answers to one request of this UID, until it closes or all of the answer is there."""
        (client,) = self.connections(1, uid)
        with client:
            return ask(client, request)

    def stop(self) -> None:
        self.call(self.runner.cleanup())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


def ask(client: socket.socket, request: str | bytes) -> bytes:
    """The answer to one request on a connection; a word with a slash is the path of a GET."""
    if isinstance(request, str):
        request = f"GET {request} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    answer = b""
    with contextlib.suppress(ConnectionError):
        client.sendall(request)
    with contextlib.suppress(ConnectionError):
        while not _whole(answer) and (chunk := client.recv(65536)):
            answer += chunk
    return answer


def _whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = next((line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"0")
    return bool(end) and len(body) >= int(length)


@contextlib.contextmanager
def running_agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """An agent's API; the group `nogroup`, which is everywhere, stands for the group `vinci`."""
    for module in (api, authorize):
        monkeypatch.setattr(module, "GROUP", "nogroup")
    folder = Path(tempfile.mkdtemp(prefix="vinci-u-", dir="/tmp"))  # a socket's path is short
    folder.chmod(0o711)
    monkeypatch.setenv("VINCI_STATE", str(folder))
    paths = NodePaths(folder, "n1")
    paths.root.mkdir(parents=True)
    running = Running(paths)
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)
