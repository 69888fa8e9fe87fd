# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that change something tell programs what was done, also when not all of it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_reason import HOSPITAL, vinci

from vinci.cli.failure import Status


def _answering(answer: dict[str, Any]) -> Any:
    async def answered(*_: object, **__: object) -> dict[str, Any]:
        return answer

    return answered


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No agent, but what the commands ask of one is answered."""
    monkeypatch.setattr("vinci.cli.declare.ensure_agent", _answering({}))
    monkeypatch.setattr("vinci.cli.declare.ensure_images", lambda *_: None)
    monkeypatch.setattr("vinci.cli.declare.last_declaration", _answering(None))  # type: ignore[arg-type]
    monkeypatch.setattr("vinci.cli.declare.returning_shares", _answering([]))  # type: ignore[arg-type]
    return monkeypatch


def test_up_and_down(agent: pytest.MonkeyPatch) -> None:
    agent.setattr("vinci.cli.declare.follow", _answering({"changes": ["VM a started"]}))
    status, output = vinci("up", HOSPITAL, "--json")
    told = {"name": "hospital", "node": "n1", "changes": ["VM a started"], "failed": []}
    assert (status, json.loads(output)) == (0, told)
    status, output = vinci("down", "--node", "n1", "--json")
    assert (status, json.loads(output)) == (0, {"node": "n1", "changes": ["VM a started"], "failed": []})


def test_what_failed_is_told_too(agent: pytest.MonkeyPatch) -> None:
    agent.setattr("vinci.cli.declare.follow", _answering({"changes": [], "failed": ["VM a did not come up"]}))
    for words in (["up", HOSPITAL], ["down", "--node", "n1"]):
        status, output = vinci(*words, "--json")
        told, end = json.JSONDecoder().raw_decode(output)
        assert (status, told["failed"]) == (Status.FAILED, ["VM a did not come up"])
        assert "not everything is" in output[end:]  # on standard error


def test_passwd(agent: pytest.MonkeyPatch) -> None:
    agent.setattr("vinci.cli.use.post", _answering({"user": "sally"}))
    agent.setattr("vinci.cli.use._read_password", lambda _: "long enough")
    assert json.loads(vinci("passwd", "sally", "--node", "n1", "--json")[1]) == {"user": "sally"}


@pytest.mark.parametrize("answer", [{"released": True}, {"released": False, "reason": "the look was not clean"}])
def test_release(agent: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    agent.setattr("vinci.cli.inspect.post", _answering(answer))
    status, output = vinci("release", "doctors-1", "--reason", "rebuilt", "--node", "n1", "--json")
    assert (status, json.loads(output)) == (int(not answer["released"]), {"vm": "doctors-1", **answer})
