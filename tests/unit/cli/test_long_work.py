# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of long work is told: nothing, bars, or lines of steps and records; the agent's API and audit are real."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running_agent import Running, running_agent
from test_reason import HOSPITAL, vinci
from typer.testing import CliRunner

from vinci.cli import declare
from vinci.cli.failure import Status
from vinci.cli.main import app
from vinci.node.audit import Event, Severity
from vinci.node.reconcile import Outcome, Progress, Report

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="the agent's API answers root only")
LINE = re.compile(
    r"(?P<id>[ \d]{6}) \d{4}-\d\d-\d\dT[\d:.]{12}\+00:00 (?P<severity>.{8}) (?P<event>.{20}) (?P<message>.+)"
)
REPORT = {
    **{"shares": [], "file_matrix": [], "targets": [], "network_matrix": [], "trust": [], "mismatches": []},
    **{"checked": 1, "matches": True},
}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """It takes every declaration and verifies it; each makes a record."""
    with running_agent(monkeypatch) as running:

        async def works(report: Report) -> None:
            report(Progress("start VMs", 0, 1))
            running.state.audit.record(Event.VM_STARTED, Severity.NOTICE, "files was started", vm="files")
            await asyncio.sleep(0.05)
            report(Progress("start VMs", 1, 1))

        async def up(_path: str, _text: bytes, report: Report) -> Outcome:
            await works(report)
            return Outcome(["VM files is started"])

        async def down(report: Report) -> Outcome:
            await works(report)
            return Outcome([], ["files does not stop"])

        async def verify(_agent: object, report: Report) -> dict[str, Any]:
            await works(report)
            return REPORT

        async def runs(*_ignored: object) -> bool:
            return False

        def built(_cache: object, report: Callable[[str], None]) -> None:
            report("build the kernel's modules")

        running.state.up, running.state.down, running.state.is_down = up, down, False
        monkeypatch.setattr("vinci.node.api.verify", verify)
        monkeypatch.setattr(declare, "ensure_agent", runs)
        monkeypatch.setattr(declare, "ensure_images", built)
        running.record(Event.VM_STOPPED, vm="earlier")
        yield running


def _told(*words: object) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of a command that does not fail."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def _lines(text: str) -> list[tuple[str, ...]]:
    matches = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(matches), text
    return [tuple(field.strip() for field in match.groups()) for match in matches if match]


@root_only
def test_verbose_tells_each_step_and_what_the_audit_took_meanwhile(agent: Running) -> None:
    status, output, told = _told("up", HOSPITAL, "-v")
    assert (status, output) == (Status.DONE, "VM files is started\nhospital is up\n")
    lines = _lines(told)
    assert lines.pop(-2) == ("2", "notice", "vm-started", "files was started"), "before the end of the last step"
    assert lines == [
        ("", "", "step", "guest images: build the kernel's modules"),
        *(("", "", "step", f"{name}: {done} of 1") for name, done in [("guest images", 1), ("node agent", 0)]),
        *(("", "", "step", f"{name}: {done} of 1") for name, done in [("node agent", 1), ("start VMs", 0)]),
        ("", "", "step", "start VMs: 1 of 1"),
    ]


@root_only
def test_verbose_beside_json_leaves_standard_output_to_the_json(agent: Running) -> None:
    status, output, told = _told("verify", "--json", "--verbose")
    assert (status, json.loads(output)) == (Status.DONE, REPORT)
    assert [event for _, _, event, _ in _lines(told)].count("vm-started") == 1


@root_only
@pytest.mark.parametrize("words", [("up", HOSPITAL, "--quiet"), ("verify", "-q"), ("verify", "--json")])
def test_quiet_and_json_tell_nothing(agent: Running, words: tuple[object, ...]) -> None:
    status, _output, told = _told(*words)
    assert (status, told) == (Status.DONE, "")


@root_only
def test_bars_tell_no_records(agent: Running) -> None:
    _status, _output, told = _told("verify")
    assert "start VMs" in told
    assert "vm-started" not in told


@root_only
def test_what_fails_is_told_after_its_records(agent: Running) -> None:
    status, output = vinci("down", "-v")
    assert status == Status.FAILED
    assert output.index("vm-started") < output.index("not everything is down:\nfiles does not stop")


@root_only
def test_an_audit_that_cannot_be_read_does_not_keep_the_result(agent: Running) -> None:
    agent.paths.audit.unlink()
    status, _output, told = _told("verify", "-v")
    assert status == Status.DONE
    assert {event for _, _, event, _ in _lines(told)} == {"step"}


@pytest.mark.parametrize("words", [("up", HOSPITAL), ("down",), ("verify",)], ids=lambda words: words[0])
def test_quiet_and_verbose_at_once_are_wrong_usage(words: tuple[object, ...]) -> None:
    assert vinci(*words, "-q", "-v") == (Status.USAGE, "--quiet and --verbose contradict each other: give one of them")
