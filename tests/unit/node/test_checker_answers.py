# SPDX-License-Identifier: GPL-2.0-or-later
"""A checker that a guest took over, or that talks nonsense, never makes a VM look clean by breaking the rules."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinci.introspect.findings import Check, CheckResult, Finding, Severity, Verdict
from vinci.introspect.protocol import MAX_ANSWER, MAX_FINDINGS, MAX_TEXT, Answer, Request, packed, unpacked
from vinci.node.introspection.answers import AnswerError, look_of

CHECKS = (Check.PLACE, Check.TEXT, Check.MODULES)
CLEAN = tuple(CheckResult(check, 3, 0.5) for check in CHECKS)
TEXT = st.text(max_size=600)
FINDINGS = st.builds(Finding, st.sampled_from(Check), TEXT, TEXT, st.sampled_from(Severity))


def _read(line: bytes) -> Any:
    return look_of(line, "vm", "1-2", CHECKS)


def _answer(**changes: Any) -> dict[str, Any]:
    return {**json.loads(Answer("vm", "1-2", 1.5, CLEAN).encode()), **changes}


def test_a_clean_answer_is_trusted() -> None:
    assert _read(Answer("vm", "1-2", 1.5, CLEAN).encode()).verdict is Verdict.TRUSTED


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"null\n",
        b"[" * 100_000,
        b'{"vm": "vm"}\n',
        b"\xff\xfe\n",
        _answer(results=[]),
        _answer(vm="other"),
        _answer(instance="1-3"),
        _answer(verdict="trusted"),
        _answer(results=_answer()["results"][:2]),
        _answer(results=_answer()["results"][1:]),
        _answer(results=_answer()["results"][::-1]),
        _answer(results=_answer()["results"] * 5),
        _answer(milliseconds=-1),
        _answer(milliseconds="1e999"),
        _answer(unreachable="x" * (MAX_TEXT + 1)),
        _answer(results=[{**_answer()["results"][0], "examined": -1}, *_answer()["results"][1:]]),
        _answer(results=[{**_answer()["results"][0], "error": 5}, *_answer()["results"][1:]]),
        _answer(
            results=[
                {**_answer()["results"][0], "findings": [{"check": "modules", "what": "x" * 1000, "where": "y"}]},
                *_answer()["results"][1:],
            ]
        ),
    ],
    ids=range(20),
)
def test_anything_else_is_refused(answer: bytes | dict[str, Any]) -> None:
    with pytest.raises(AnswerError):
        _read(answer if isinstance(answer, bytes) else json.dumps(answer).encode())


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_garbage_never_raises_anything_else(untrusted: bytes | str) -> None:
    with contextlib.suppress(AnswerError):
        look = _read(untrusted if isinstance(untrusted, bytes) else untrusted.encode())
        raise AssertionError(look)


def test_a_look_may_end_early_only_where_a_check_failed() -> None:
    failed = CheckResult(Check.PLACE, 0, 0.5, error="no kernel")
    assert _read(Answer("vm", "1-2", 1.5, (failed,)).encode()).verdict is Verdict.COMPROMISED
    with pytest.raises(AnswerError, match="left out"):
        _read(Answer("vm", "1-2", 1.5, CLEAN[:1]).encode())


def test_a_guest_cannot_write_to_the_administrators_terminal() -> None:
    nasty = CheckResult(Check.PLACE, 1, 0.5, (Finding(Check.PLACE, "\x1b[2Jgone", "\x07"),), "\x1b]0;x")
    look = _read(Answer("vm", "1-2", 1.5, (nasty, *CLEAN[1:])).encode())
    (finding,) = look.results[0].findings
    assert (finding.what + finding.where + str(look.results[0].error)).isprintable()


@given(st.lists(FINDINGS, max_size=3 * MAX_FINDINGS), TEXT | st.none(), TEXT.filter(bool) | st.just(""))
def test_an_answer_is_bounded_and_keeps_its_verdict(findings: list[Finding], error: str | None, reason: str) -> None:
    results = (CheckResult(Check.PLACE, 1, 1.0, tuple(findings), error), *CLEAN[1:])
    line = Answer("vm", "1-2", 1.5, results, reason).encode()
    assert len(line) <= MAX_ANSWER
    assert line.count(b"\n") == 1
    tampered = error is not None or any(f.severity is Severity.TAMPERED for f in findings)
    expected = Verdict.UNREACHABLE if reason else Verdict.COMPROMISED if tampered else Verdict.TRUSTED
    assert _read(line).verdict is expected


def test_the_largest_answer_fits() -> None:
    finding = Finding(Check.PLACE, "\N{PILE OF POO}" * 600, "\x00" * 600)
    rows = tuple(CheckResult(check, 1, 1.0, (finding,) * 200, "\N{PILE OF POO}" * 600) for check in Check)
    line = Answer("vm", "1-2", 1.5, rows).encode()
    assert len(line) <= MAX_ANSWER
    assert look_of(line, "vm", "1-2", tuple(Check)).verdict is Verdict.COMPROMISED


def test_a_request_survives_the_way() -> None:
    request = Request("vm", "1-2", "APP-VM", "CPU#0\nRAX=0", ("1-2", "3-4"), "FlatView #0", (packed(b"policy" * 99),))
    assert [unpacked(policy) for policy in request.policies] == [b"policy" * 99]
    assert Request.decode(request.encode()) == request
