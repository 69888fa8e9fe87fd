# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that check, show and explain flows, as a user sees them. No root, no agent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vinci.cli import declare
from vinci.cli.declare import confirm_ways_down
from vinci.cli.failure import Failure, Status
from vinci.cli.in_force import InForce
from vinci.cli.main import app
from vinci.model.infrastructure import Infrastructure
from vinci.model.load import load, parse
from vinci.plan.compile import compile_plan
from vinci.plan.types import Plan
from vinci.settings import SettingsError

EXAMPLES = Path(__file__).parents[3] / "examples"
HOSPITAL, UTILITY = EXAMPLES / "hospital.yaml", EXAMPLES / "utility.yaml"
LEAK = ("    trusted: true\n    reason: the ward's bed", "    reason: the ward's bed")


def vinci(*arguments: object) -> tuple[int, str]:
    """Exit status and all that was printed, as `vinci.cli.main.main` would have it."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, Failure):
        return result.exception.status, result.output + str(result.exception)
    if isinstance(result.exception, SettingsError):
        return Status.USAGE, result.output + str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def changed(tmp_path: Path, *replacements: tuple[str, str], file: Path = HOSPITAL) -> Path:
    text = file.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    target = tmp_path / "changed.yaml"
    target.write_text(text)
    return target


@pytest.fixture(autouse=True)
def no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VINCI_STATE", str(tmp_path / "state"))


@pytest.mark.parametrize("name", ["hospital", "utility", "company"])
def test_examples_are_proved_and_hold_what_they_expect(name: str) -> None:
    status, output = vinci("check", EXAMPLES / f"{name}.yaml", "--json")
    report = json.loads(output)
    assert (status, report["valid"], report["proved"], report["leaks"]) == (0, True, True, [])
    assert {each["outcome"] for each in report["expectations"]} == {"holds"}


def test_a_second_opinion() -> None:
    status, output = vinci("check", HOSPITAL, "--deep")
    assert status == 0
    assert "read back: the compiled policies and the packet rules say the same" in output
    assert json.loads(vinci("check", HOSPITAL, "--deep", "--json")[1])["disagreements"] == []


def test_a_second_opinion_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler with a fault: it forgets what may enter a community."""

    def faulty(infrastructure: Infrastructure) -> Plan:
        plan = compile_plan(infrastructure)
        (node,) = plan.nodes
        firewalls = tuple(replace(each, inbound=()) for each in node.firewalls)
        return replace(plan, nodes=(replace(node, firewalls=firewalls),))

    monkeypatch.setattr(declare, "compile_plan", faulty)
    status, output = vinci("check", HOSPITAL, "--deep")
    assert status == Status.DOES_NOT_HOLD
    assert "administration-1 -> nurses-1 at 10.20.2.10 tcp/443: is declared and dropped" in output
    assert "defect of Vinci" in output


def test_check_shows_a_leak_hop_by_hop_with_lines_and_the_smallest_change(tmp_path: Path) -> None:
    file = changed(tmp_path, LEAK)
    line = 1 + file.read_text().splitlines().index("  - from: administration")
    status, output = vinci("check", file)
    assert status == Status.DOES_NOT_HOLD
    assert "NOT PROVED" in output
    assert f"{file}:{line}: administration sends requests to https (tcp/443) of nurses" in output
    assert "smallest change: remove the flow" in output
    (leak,) = json.loads(vinci("check", file, "--json")[1])["leaks"]
    assert (leak["from"], leak["to"], leak["way"][0]["line"]) == ("administration", "nurses", line)


LOG = "nurses: [append], administration: [read, append]}"
LOG_READ = LOG.replace("nurses: [append]", "nurses: [read]")
FLOWS, TRUST = "flows:\n", "trusted: true, reason: for a test}\n"
DIODE = "{from: nurses, to: doctors, service: udp/514, direction: one-way"
WAYS_DOWN = [
    pytest.param(
        (LOG, LOG_READ),
        "administration", "nurses",
        ["administration may append share log", "nurses may read share log"],
        ('take "read" on share log from nurses', "add `trusted: {communities: [nurses], reason: …}` to share log"),
        (LOG, LOG_READ + "\n    trusted: {communities: [nurses], reason: for a test}"),
        id="read up",
    ),
    pytest.param(
        ("administration: [read]}", "administration: [read, append]}"),
        "administration", "share billing",
        ["administration may append share billing"],
        ('take "append" on share billing from administration', "add `trusted: {communities: [administration], reason"),
        ("administration: [read]}", "administration: [read, append]}\n    trusted: {communities: [administration], "
         "reason: for a test}"),
        id="append down",
    ),
    pytest.param(
        ("nurses: [read]}\n  billing", "nurses: [write]}\n  billing"),
        "nurses", "doctors",
        ["nurses may write share prescriptions", "doctors may read share prescriptions"],
        ('take "write" on share prescriptions from nurses', "or change a label"),
        None,
        id="write down",
    ),
    pytest.param(
        (FLOWS, FLOWS + "  - {from: doctors, to: nurses, service: ssh}\n"),
        "nurses", "doctors",
        ["nurses answers requests of doctors to its ssh (tcp/22)"],
        ("remove the flow by which nurses answers", "add `upward: true`, `trusted: true` and `reason: …` to the flow"),
        (FLOWS, FLOWS + "  - {from: doctors, to: nurses, service: ssh, upward: true, " + TRUST),
        id="a flow up with answers",
    ),
    pytest.param(
        (FLOWS, FLOWS + f"  - {DIODE}}}\n"),
        "nurses", "doctors",
        ["nurses sends requests to syslog (udp/514) of doctors"],
        ("remove the flow by which nurses sends", "if it is meant: add `trusted: true` and `reason: …` to the flow"),
        (FLOWS, FLOWS + f"  - {DIODE}, {TRUST}"),
        id="a flow down",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "start", "end", "steps", "said", "trusted"), WAYS_DOWN)
def test_every_way_down_is_printed_hop_by_hop_with_the_smallest_change(
    tmp_path: Path, change: Any, start: str, end: str, steps: list[str], said: tuple[str, str], trusted: Any
) -> None:
    """Shares and flows alike: not as an error of one line, but with the whole way; and what mends it does."""
    file = changed(tmp_path, change)
    status, output = vinci("check", file)
    assert status == Status.DOES_NOT_HOLD
    assert f"LEAK: information of {start} gets down to {end}" in output
    way = [line for line in output.splitlines() if line.startswith(f"  {file}:")]
    assert len(way) >= len(steps)
    for step, line in zip(steps, way, strict=False):
        assert f": {step} [" in line
    assert "DOWN, unexplained" in output
    assert f"smallest change: {said[0]}" in output
    assert said[1] in output
    assert vinci("flows", file)[0] == Status.DOES_NOT_HOLD
    assert vinci("up", file)[0] == Status.DOES_NOT_HOLD
    assert "not read back" in vinci("check", file, "--deep")[1]
    if trusted is not None:
        assert "proved: every way down is declared as trusted" in vinci("check", changed(tmp_path, trusted))[1]


def test_a_diode_between_incomparable_labels_is_shown_by_the_proof(tmp_path: Path) -> None:
    care = "care: {includes: [treatment], categories: [ward]}"
    alone = care.replace("includes: [treatment]", "level: confidential")
    flow = FLOWS + "  - {from: doctors, to: nurses, service: udp/514, direction: one-way}\n"
    output = vinci("check", changed(tmp_path, (care, alone), (FLOWS, flow)))[1]
    assert "LEAK: information of doctors gets down to nurses" in output
    assert "add `upward: true`, `trusted: true` and `reason: …` to the flow" in output


def test_check_fails_with_a_counter_example(tmp_path: Path) -> None:
    file = changed(tmp_path, ("that: nurses cannot write prescriptions", "that: nurses cannot read prescriptions"))
    status, output = vinci("check", file)
    assert status == Status.DOES_NOT_HOLD
    assert "proved" in output
    assert "nurses can read prescriptions" in output
    assert "smallest change: take read on share prescriptions from nurses" in output
    assert output.count("FAILS") == 1


def test_an_expectation_that_cannot_be_understood_does_not_pass(tmp_path: Path) -> None:
    status, output = vinci("check", changed(tmp_path, ("that: nobody can write log", "that: nobody can wirte log")))
    assert status == Status.DOES_NOT_HOLD
    assert "BROKEN" in output


def test_a_broken_file_is_still_status_2(tmp_path: Path) -> None:
    file = changed(tmp_path, ("vinci: 1", "vinci: 2"))
    for arguments in (("check",), ("check", "--json"), ("flows",), ("plan",), ("up",)):
        status, output = vinci(*arguments, file)
        assert (arguments, status) == (arguments, Status.USAGE)
        assert "changed.yaml" in output
    assert vinci("flows", tmp_path / "absent.yaml")[0] == Status.USAGE


def test_flows_tells_who_whom_and_why(tmp_path: Path) -> None:
    status, output = vinci("flows", UTILITY)
    assert status == 0
    assert "scada answers requests of database to its modbus (tcp/502)" in output
    assert "measurements are asked for by reading requests only" in output
    assert "proved" in output
    assert vinci("flows", changed(tmp_path, LEAK))[0] == Status.DOES_NOT_HOLD


@pytest.mark.parametrize("command", ["check", "flows"])
def test_a_share_whose_size_tells_is_noted(command: str) -> None:
    """Nurses append to what administration appends to: how it grows tells them, and no label forbids it."""
    status, output = vinci(command, HOSPITAL)
    notes = [line for line in output.splitlines() if line.startswith("note: ")]
    line = next(number for number, text in enumerate(HOSPITAL.read_text().splitlines(), 1) if LOG in text)
    assert (status, notes) == (
        0,
        [
            f"note: {HOSPITAL}:{line}: names, sizes and times in share log show doctors and nurses, who may append, "
            "what is done there by nurses and administration"
        ],
    )
    (note,) = json.loads(vinci(command, HOSPITAL, "--json")[1])["notes"]
    assert (note["share"], note["seeing"], note["line"]) == ("log", ["doctors", "nurses"], line)


def test_a_share_of_which_only_lower_ones_write_is_no_channel(tmp_path: Path) -> None:
    alone = "{doctors: [append], administration: [read]}\n    description: append"
    file = changed(tmp_path, (LOG.replace("{", "") + "\n    description: append", alone[1:]))
    assert "note: " not in vinci("check", file)[1]


def test_flows_lists_who_is_trusted_by_construction() -> None:
    """No line of the file opens these ways, so the graph does not have them: they are told beside it."""
    output = vinci("flows", HOSPITAL)[1]
    assert "Trusted by construction" in output
    lines = HOSPITAL.read_text().splitlines()
    listed = json.loads(vinci("flows", HOSPITAL, "--json")[1])["trusted_by_construction"]
    assert [(each["who"], lines[each["line"] - 1].strip()) for each in listed] == [
        ("A-VM of node n1 and its administrators", "n1: {}"),
        ("FS-VM files", "files: {}"),
    ]
    assert all(each["communities"] == ["doctors", "nurses", "administration"] for each in listed)
    assert "homes-nurses" in listed[1]["sees"]
    company = json.loads(vinci("flows", EXAMPLES / "company.yaml", "--json")[1])["trusted_by_construction"]
    assert {each["who"] for each in company} >= {"FS-VM homes"}


def test_flows_of_one_community() -> None:
    passages = json.loads(vinci("flows", UTILITY, "--json", "--from", "database")[1])["passages"]
    assert {(each["from"], each["to"], each["passage"]) for each in passages} == {
        ("database", "scada", "permitted"),
        ("database", "software", "trusted"),
    }
    assert [len(each["way"]) for each in passages] == [1, 2]
    assert vinci("flows", UTILITY, "--from", "nobody")[0] == Status.USAGE


def test_plan_shows_a_change_of_flows() -> None:
    status, output = vinci("plan", HOSPITAL)
    assert status == Status.DOES_NOT_HOLD
    assert "+ doctors gains append on billing" in output
    assert "! information of administration gets down to nurses" in output
    assert "start VM doctors-1" in output


def test_up_refuses_a_leak_before_it_touches_anything(tmp_path: Path) -> None:
    status, output = vinci("up", changed(tmp_path, LEAK))
    assert status == Status.DOES_NOT_HOLD
    assert "nothing was changed" in output
    assert "administration sends requests to https (tcp/443) of nurses" in output
    assert not (tmp_path / "state").exists()


def test_up_refuses_a_file_that_breaks_its_own_expectations(tmp_path: Path) -> None:
    file = changed(tmp_path, ("that: nurses cannot write prescriptions", "that: nurses cannot read prescriptions"))
    status, output = vinci("up", file)
    assert status == Status.DOES_NOT_HOLD
    assert "nurses can read prescriptions" in output
    assert not (tmp_path / "state").exists()


def test_a_new_way_down_has_to_be_confirmed(capsys: pytest.CaptureFixture[str]) -> None:
    new = load(HOSPITAL)
    text = HOSPITAL.read_text()
    start, end = text.index("flows:\n"), text.index("# Bruno is in two")
    old = parse((text[:start] + text[end:]).encode(), "old.yaml")
    before = InForce(1, "old.yaml", old)
    with pytest.raises(Failure, match="--yes") as refused:
        confirm_ways_down(before, new.infrastructure, yes=False)
    assert refused.value.status is Status.DOES_NOT_HOLD
    assert "administration gets down to nurses" in capsys.readouterr().err
    confirm_ways_down(before, new.infrastructure, yes=True)
    assert "administration gets down to nurses" in capsys.readouterr().err
    # what is in force and cannot be read any more is no excuse
    with pytest.raises(Failure):
        confirm_ways_down(InForce(1, "old.yaml", None), new.infrastructure, yes=False)


def test_a_change_without_a_new_way_down_is_not_asked_about(capsys: pytest.CaptureFixture[str]) -> None:
    hospital = load(HOSPITAL)
    confirm_ways_down(InForce(1, "same.yaml", hospital), hospital.infrastructure, yes=False)
    confirm_ways_down(None, hospital.infrastructure, yes=False)
    assert capsys.readouterr().err == ""


QUESTIONS: list[tuple[list[str], bool, str]] = [
    (["nurses:sally", "write", "prescriptions"], False, "the share lacks ward"),
    (["doctors", "append", "billing"], True, "doctors may append share billing"),
    (["administration", "->", "nurses", "https"], True, "a flow permits"),
    (["nurses", "to", "administration", "tcp/443"], False, "there is a flow the other way"),
]


@pytest.mark.parametrize(("words", "allowed", "ground"), QUESTIONS)
def test_explain(words: list[str], allowed: bool, ground: str) -> None:
    status, output = vinci("explain", "--file", HOSPITAL, *words)
    assert status == 0
    assert output.startswith("ALLOWED" if allowed else "DENIED")
    assert ground in output
    assert f"({HOSPITAL}:" in output
    assert len(output.splitlines()) < 24, "one screen"
    data: dict[str, Any] = json.loads(vinci("explain", "--json", "--file", HOSPITAL, *words)[1])
    assert data["allowed"] is allowed
    assert any(each["decides"] for each in data["grounds"])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "ask one question"),
        (["nurses"], "ask `COMMUNITY"),
        (["nurses", "-"], "the shell took"),
        (["nurse", "read", "log"], 'did you mean "nurses"'),
        (["nurses", "->", "doctors", "nonsense"], "ask for https"),
        (["nurses", "read", "log", "--event", "3"], "ask one question"),
    ],
)
def test_a_question_that_is_not_understood(words: list[str], hint: str) -> None:
    status, output = vinci("explain", "--file", HOSPITAL, *words)
    assert (status, hint in output) == (Status.USAGE, True)


def test_explain_needs_a_file_or_an_agent() -> None:
    status, output = vinci("explain", "nurses", "read", "log")
    assert (status, "vinci up" in output) == (Status.FAILED, True)
