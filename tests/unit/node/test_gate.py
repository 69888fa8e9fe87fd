# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's socket: what is refused is told in a sentence and recorded, and no user keeps the others out."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Iterator

import pytest
from running_agent import NOBODY, Running, ask, running_agent

from vinci.node import api, gate
from vinci.node.authorize import Peer, Role
from vinci.node.budget import BURST

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="clients of other UIDs are made by root")
OTHER = 1
"""Debian's `daemon`: another user."""
FOUND = "/v1/declaration"
"""What members may ask for: here the answer is that nothing is in force."""
LOGIN = (
    b"GET /v1/login HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MALFORMED = {
    "bytes": b"\x00\xff" * 5000,
    "no path": b"GET / HTTP/1.1\r\n\r\n",
    "huge": b"POST /v1/up HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
    "cut off": b'POST /v1/password HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"user":1',
    "deep": b"POST /v1/password HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000,
    "number": b"GET /v1/audit?since=minus HTTP/1.1\r\nHost: a\r\n\r\n",
    "no VM": b"GET /v1/console?vm=../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "long line": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "method": b"PATCH /v1/status HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunks": b"POST /v1/password HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    "no upgrade": b"GET /v1/login HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running_agent(monkeypatch) as running:
        yield running


def _status(answer: bytes) -> int:
    return int(answer.split()[1])


def _sentence(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"])


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_refused_is_told_and_recorded(agent: Running, name: str) -> None:
    answer = agent.asked(MALFORMED[name], 0)
    assert _status(answer) in (400, 404, 405, 413)
    sentence = _sentence(answer)
    assert 10 < len(sentence) < 350
    assert sentence.isprintable()
    (record,) = agent.records
    assert (record["event"], record["uid"]) == ("api-denied", 0)
    assert sentence.removeprefix("the request is malformed: ") in record["message"]


def test_a_user_who_takes_all_requests_he_gets_keeps_nobody_else_out(agent: Running) -> None:
    mine = agent.connections(gate.MAX_REQUESTS_EACH + 1)
    for client in mine[:-1]:
        client.sendall(LOGIN)
        assert client.recv(12) == b"HTTP/1.1 101"
    refused = ask(mine[-1], FOUND)
    assert (_status(refused), "end one of them first" in _sentence(refused)) == (503, True)
    assert [record["uid"] for record in agent.records] == [NOBODY]
    assert _status(agent.asked(FOUND, OTHER)) == _status(agent.asked(FOUND, 0)) == 404
    mine[0].close()
    _until(lambda: _status(agent.asked(FOUND)) == 404)


def test_all_users_together_leave_room_for_root(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_REQUESTS", 3)
    monkeypatch.setattr(gate, "MAX_REQUESTS_EACH", 2)
    with running_agent(monkeypatch) as small:
        held = small.connections(2) + small.connections(1, OTHER)
        for client in held:
            client.sendall(LOGIN)
            assert client.recv(12) == b"HTTP/1.1 101"
        assert _status(small.asked(FOUND, OTHER)) == 503
        assert _status(small.asked(FOUND, 0)) == 404
        for client in held:
            client.close()


def test_a_user_who_takes_all_connections_he_gets_keeps_nobody_else_out(agent: Running) -> None:
    idle = agent.connections(gate.MAX_CONNECTIONS_EACH)
    refused = agent.asked(FOUND)
    assert (_status(refused), "end one of them first" in _sentence(refused)) == (503, True)
    assert _status(agent.asked(FOUND, OTHER)) == _status(agent.asked(FOUND, 0)) == 404
    for client in idle:
        client.close()
    _until(lambda: _status(agent.asked(FOUND)) == 404)


@pytest.mark.parametrize("begun", [b"", b"GET /v1/sta", b"GET /v1/status HTTP/1.1\r\nHost: a\r\n"])
def test_a_connection_that_asks_for_nothing_is_closed(
    agent: Running, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(gate, "REQUEST_SECONDS", 0.3)
    (client,) = agent.connections(1)
    client.sendall(begun)
    assert client.recv(1) == b""


def test_a_login_that_says_nothing_is_ended_and_recorded(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api._first, "__defaults__", (0.3,))
    (client,) = agent.connections(1)
    client.sendall(LOGIN)
    answer = b""
    while b"no message came" not in answer:
        chunk = client.recv(4096)
        assert chunk, answer
        answer += chunk
    assert "no message came" in agent.records[-1]["message"]


def test_an_answered_connection_is_not_kept_for_long(agent: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "REQUEST_SECONDS", 0.3)
    (client,) = agent.connections(1)
    assert _status(ask(client, FOUND)) == 404
    assert client.recv(1) == b""


def test_a_flood_of_refused_requests_leaves_the_audit_to_others(agent: Running) -> None:
    (client,) = agent.connections(1)
    for _ in range(BURST + 100):
        assert _status(ask(client, "/v1/audit")) == 403
    assert _status(agent.asked("/v1/audit", OTHER)) == 403
    recorded = [record["uid"] for record in agent.records if record["event"] == "api-denied"]
    assert recorded.count(NOBODY) < BURST + 50
    assert recorded[-1] == OTHER


def test_what_was_left_out_is_told(agent: Running) -> None:
    (client,) = agent.connections(1)
    for _ in range(BURST + 10):
        ask(client, "/v1/audit")
    time.sleep(1)
    ask(client, "/v1/audit")
    (told,) = [record for record in agent.records if record["event"] == "records-left-out"]
    assert told["source"] == f"UID {NOBODY}"


def test_a_stranger_is_refused_and_recorded(agent: Running) -> None:
    answer = agent.asked(FOUND, 4_000_000)  # no account has it: a subordinate UID
    assert _status(answer) == 403
    assert [record["uid"] for record in agent.records] == [4_000_000]
    assert Peer(4_000_000, NOBODY).role is Role.STRANGER


def test_a_flood_of_strangers_is_one_source(agent: Running) -> None:
    for uid in range(4_000_000, 4_000_000 + 3):
        (client,) = agent.connections(1, uid)
        for _ in range(BURST):
            assert _status(ask(client, FOUND)) == 403
    assert len(agent.records) < BURST + 50


def test_a_failure_of_the_agents_own_is_a_sentence_and_recorded_within_bounds(agent: Running) -> None:
    (client,) = agent.connections(1)
    for _ in range(BURST + 100):
        assert "see " in _sentence(ask(client, "/v1/status"))  # which this agent without VMs cannot tell
    assert {record["event"] for record in agent.records} <= {"operation-failed", "records-left-out"}
    assert len(agent.records) < BURST + 50


def test_the_agent_may_open_as_many_files_as_the_system_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))  # what other tests have open stays below it
    try:
        with running_agent(monkeypatch):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
