# SPDX-License-Identifier: GPL-2.0-or-later
"""The language of `expect:`: statements that hold, that fail with their counter-example, and that mean nothing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import infrastructures

from vinci.model.infrastructure import Infrastructure, Operation
from vinci.model.labels import Lattice
from vinci.model.load import load, parse
from vinci.model.source import Source
from vinci.policy.access import access
from vinci.policy.expect import Outcome, check_expectations, counter_examples
from vinci.policy.expected import MEASURED_OPERATIONS, expected_operations
from vinci.policy.explain import QuestionError, explain_access, explain_connection
from vinci.policy.flows import analyse
from vinci.policy.statements import StatementError, parse_statement

EXAMPLES = Path(__file__).parents[3] / "examples"
DECLARATION = load(EXAMPLES / "hospital.yaml")
HOSPITAL = DECLARATION.infrastructure
ANALYSIS = analyse(HOSPITAL)
NOWHERE = Source("file.yaml")


def contradictions(statement: str) -> list[str]:
    return [found.text for found in counter_examples(ANALYSIS, DECLARATION.source, statement)]


@pytest.mark.parametrize(
    "statement",
    [
        "nurses cannot write prescriptions",
        "nurses can read prescriptions and project",
        "doctors:anna can read or write project",
        "anna can write project",
        "only doctors can write prescriptions",
        "only doctors:anna and doctors:bruno can write project",
        "nobody can write log",
        "nobody can execute anything",
        "everybody can append log",
        "doctors cannot reach nurses",
        "administration can reach nurses by https",
        "administration cannot reach nurses by ssh, tcp/80",
        "only administration can reach nurses",
        "nobody can reach doctors",
        "nothing of nurses reaches doctors except by bruno",
        "nothing of administration reaches nurses except https, bruno",
        "administration reaches nurses only by https, bruno",
        "nothing of doctors reaches administration except billing, share log, nurses, user bruno",
    ],
)
def test_holds(statement: str) -> None:
    assert contradictions(statement) == []


@pytest.mark.parametrize(
    ("statement", "because"),
    [
        ("nurses can write prescriptions", "nurses cannot write prescriptions"),
        ("doctors can write project", "doctors cannot write project"),
        ("doctors cannot write project", "doctors:anna can write project"),
        ("only anna can write project", "doctors:bruno can write project"),
        ("nobody can append log", "doctors can append log"),
        ("doctors cannot append prescriptions", "doctors can append prescriptions"),
        ("only nurses can read prescriptions", "doctors can read prescriptions"),
        ("administration cannot reach nurses", "administration can reach nurses by https (tcp/443)"),
        ("administration can reach nurses by ssh", "administration cannot reach nurses by ssh"),
        ("nobody can reach nurses", "administration can reach nurses"),
        ("nothing of doctors reaches administration except billing", "doctors reaches administration in 1 step"),
        ("nothing of nurses reaches doctors", "nurses reaches doctors in 2 steps"),
        ("administration reaches nurses only by https read", "administration reaches nurses in 1 step"),
        ("nurses reaches administration only by https", "nurses reaches administration in 2 steps"),
    ],
)
def test_fails_with_a_counter_example(statement: str, because: str) -> None:
    found = contradictions(statement)
    assert any(because in text for text in found), found


@pytest.mark.parametrize(
    ("statement", "wrong", "right"),
    [
        ("", "a name is missing", ""),
        ("docs can read log", 'unknown community "docs"', 'did you mean "doctors"?'),
        ("doctors can raed log", 'unknown operation "raed"', 'did you mean "read"?'),
        ("doctors can read lg", 'unknown share "lg"', 'did you mean "log"?'),
        ("doctors", "the statement ends", ""),
        ("doctors can read log; drop", '";" means nothing', ""),
        ("nurses:anna can read log", "anna is not in nurses", ""),
        ("only doctors cannot read log", "means nothing", ""),
        ("nothing of doctors reaches nurses except doctors", "doctors is an end of the way", ""),
        ("nothing of doctors reaches nurses except htps", 'unknown name "htps"', 'did you mean "https"?'),
        ("doctors reaches nurses only by", "a name is missing", ""),
    ],
)
def test_broken(statement: str, wrong: str, right: str) -> None:
    with pytest.raises(StatementError) as caught:
        contradictions(statement)
    assert wrong in str(caught.value)
    assert right in caught.value.right


def test_a_counter_example_names_lines_and_a_change() -> None:
    (found,) = counter_examples(ANALYSIS, DECLARATION.source, "nothing of nurses reaches doctors")
    assert [step.position.line for step in found.steps] == sorted(
        {step.position.line for step in found.steps}, reverse=True
    )
    assert found.change is not None
    assert found.change.remove == (("users", "bruno", "communities", "doctors"),)


def test_outcomes_of_a_file() -> None:
    text = (EXAMPLES / "hospital.yaml").read_text()
    text += "  - {that: nurses can write log, disable: not yet}\n"
    text += "  - that: nurses can write log\n  - that: nurses write log\n"
    declaration = parse(text.encode(), "file.yaml")
    *first, disabled, failed, broken = check_expectations(analyse(declaration.infrastructure), declaration.source)
    assert {result.outcome for result in first} == {Outcome.HOLDS}
    assert (disabled.outcome, disabled.detail) == (Outcome.DISABLED, "not yet")
    assert failed.outcome is Outcome.FAILS
    assert failed.counter_examples
    assert broken.outcome is Outcome.BROKEN
    assert failed.position.line == len(text.splitlines()) - 1


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_expectations_of_the_examples_hold(example: Path) -> None:
    declaration = load(example)
    results = check_expectations(analyse(declaration.infrastructure), declaration.source)
    assert [result for result in results if result.outcome is not Outcome.HOLDS] == []
    assert results


def test_modbus_read_means_a_gateway_that_lets_nothing_else_through() -> None:
    statement = "database reaches scada only by modbus read"
    text = (EXAMPLES / "utility.yaml").read_text()
    uninspected = text[: text.index("    inspection:\n      gateway: modbus")] + text[text.index("    upward: true") :]
    for changed, holds in [
        (text, True),
        (text.replace("read-input-registers]", "write-register]"), False),
        (uninspected, False),
    ]:
        declaration = parse(changed.encode())
        found = list(counter_examples(analyse(declaration.infrastructure), declaration.source, statement))
        assert (not found) == holds


WORDS = (
    "only nobody everybody nothing of reaches can cannot read write reach by except and , doctors nurses log bruno "
    "https anna ; x:y tcp/80 anything"
)


@given(st.lists(st.sampled_from(WORDS.split()), max_size=9).map(" ".join) | st.text(max_size=40))
@settings(max_examples=500)
def test_any_words_are_understood_or_refused(statement: str) -> None:
    with suppress(StatementError):
        parse_statement(HOSPITAL, statement)
        contradictions(statement)


@given(infrastructures())
@settings(max_examples=100)
def test_access_statements_and_explanations_agree(infrastructure: Infrastructure) -> None:
    """Four ways to ask the same: they share little code, `expected` (what `vinci verify` uses) none."""
    lattice, analysis = Lattice(infrastructure.labels), analyse(infrastructure)
    for user, declared in infrastructure.users.items():
        for community in declared.communities:
            for share in infrastructure.shares:
                expected = expected_operations(infrastructure, user, community, share)
                for operation in MEASURED_OPERATIONS:
                    allowed = access(infrastructure, lattice, community, user, operation, share).allowed
                    assert allowed == (operation in expected)
                    subject = f"{community}:{user}"
                    assert explain_access(infrastructure, NOWHERE, subject, operation, share).allowed == allowed
                    can = list(counter_examples(analysis, NOWHERE, f"{subject} can {operation} {share}"))
                    cannot = list(counter_examples(analysis, NOWHERE, f"{subject} cannot {operation} {share}"))
                    assert (not can, not cannot) == (allowed, not allowed)


@given(infrastructures())
@settings(max_examples=50)
def test_connection_statements_and_explanations_agree(infrastructure: Infrastructure) -> None:
    analysis = analyse(infrastructure)
    for client in infrastructure.communities:
        for server in infrastructure.communities:
            for service in ("https", "plant", "udp/514"):
                allowed = explain_connection(infrastructure, NOWHERE, client, server, service).allowed
                if client != server:
                    can = list(counter_examples(analysis, NOWHERE, f"{client} can reach {server} by {service}"))
                    cannot = list(counter_examples(analysis, NOWHERE, f"{client} cannot reach {server} by {service}"))
                    assert (not can, not cannot) == (allowed, not allowed)


def explained(subject: str, operation: str, share: str) -> tuple[bool, list[str], str]:
    """The answer, the deciding grounds with the text of their lines, and the change."""
    answer = explain_access(HOSPITAL, DECLARATION.source, subject, operation, share)
    lines = (EXAMPLES / "hospital.yaml").read_text().splitlines()
    grounds = [
        ground.text + (f" | {lines[ground.position.line - 1].strip()}" if ground.position else "")
        for ground in answer.grounds
        if ground.decides
    ]
    return answer.allowed, grounds, answer.change


def test_explains_a_denial_label_by_label() -> None:
    allowed, grounds, change = explained("nurses:sally", "write", "prescriptions")
    assert not allowed
    assert grounds == [
        "nurses may only read share prescriptions | access: {doctors: [read, write], nurses: [read]}",
        "the labels forbid it: writing needs a label equal to the share's; the share lacks ward",
    ]
    assert "grant write" in change
    assert "change a label" in change


def test_explains_a_permission() -> None:
    allowed, grounds, change = explained("doctors:anna", "read", "project")
    assert allowed
    assert grounds[0].startswith("doctors:anna may read, write share project | access:")
    assert change == "take read on share project from doctors:anna"


def test_explains_a_stranger() -> None:
    allowed, grounds, _ = explained("nurses:anna", "read", "log")
    assert not allowed
    assert grounds == ["anna is not in nurses | communities: {doctors: {}}"]


@pytest.mark.parametrize(
    ("subject", "operation", "share"),
    [
        ("docs", "read", "log"),
        ("doctors", "raed", "log"),
        ("doctors", "read", "lg"),
        ("doctors:ana", "read", "log"),
    ],
)
def test_unknown_names_in_questions(subject: str, operation: str, share: str) -> None:
    with pytest.raises(QuestionError) as caught:
        explain_access(HOSPITAL, DECLARATION.source, subject, operation, share)
    assert "did you mean" in caught.value.right


def test_explains_connections() -> None:
    ask = lambda *question: explain_connection(HOSPITAL, DECLARATION.source, *question)  # noqa: E731
    assert ask("administration", "nurses", "https").allowed
    assert ask("administration", "nurses", "tcp/443").allowed
    denied = ask("nurses", "administration", "https")
    assert not denied.allowed
    assert any("the other way" in ground.text for ground in denied.grounds)
    assert "upward" in denied.change
    assert not ask("doctors", "doctors", "ssh").allowed
    with pytest.raises(QuestionError):
        ask("doctors", "nurses", "tcp/x")


def test_operations_are_the_model_s() -> None:
    assert set(MEASURED_OPERATIONS) <= set(Operation)
