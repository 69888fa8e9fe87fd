# SPDX-License-Identifier: GPL-2.0-or-later
"""Validates what the checker answers. It has read hostile memory and may be a guest's puppet: it is not believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vinci.introspect.findings import Check, CheckResult, Finding, Look, Severity, Verdict, verdict_of
from vinci.introspect.protocol import MAX_FINDINGS, MAX_TEXT
from vinci.node.printable import printable

_Text = Annotated[str, Field(max_length=MAX_TEXT)]
_Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class AnswerError(Exception):
    """The checker did not answer what was asked, or not in the form that was agreed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Finding(_Part):
    check: Check
    what: _Text
    where: _Text
    severity: Severity


class _Result(_Part):
    check: Check
    examined: Annotated[int, Field(ge=0)]
    milliseconds: _Milliseconds
    findings: Annotated[tuple[_Finding, ...], Field(max_length=MAX_FINDINGS + 1)]
    error: _Text | None


class _Answer(_Part):
    vm: str
    instance: str
    milliseconds: _Milliseconds
    results: Annotated[tuple[_Result, ...], Field(max_length=len(Check))]
    unreachable: _Text


def look_of(untrusted_line: bytes, vm: str, instance: str, checks: Sequence[Check]) -> Look:
    """The look that a line tells of, its verdict drawn anew from the results.

    Args:
        untrusted_line: what the checker sent.
        vm, instance: what it was asked about.
        checks: those that a complete look consists of, in order. Only a check that failed may end a look early.

    Raises:
        AnswerError: it is anything else.
    """
    try:
        answer = _Answer.model_validate_json(untrusted_line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:100]
        raise AnswerError(f"the checker's answer is malformed: {place} {first['msg'][:100]}") from None
    if (answer.vm, answer.instance) != (vm, instance):
        raise AnswerError("the checker answered about another VM than the one it was asked about")
    if answer.unreachable:
        return Look(vm, Verdict.UNREACHABLE, (), answer.milliseconds, printable(answer.unreachable))
    made = [result.check for result in answer.results]
    if made != list(checks[: len(made)]) or not made:
        raise AnswerError("the checker made other checks than were agreed")
    results = tuple(_result(result) for result in answer.results)
    if len(made) < len(checks) and results[-1].error is None:
        raise AnswerError(f"the checker left out {checks[len(made)]} and what comes after it")
    return Look(vm, verdict_of(results), results, answer.milliseconds)


def _result(result: _Result) -> CheckResult:
    findings = tuple(Finding(f.check, printable(f.what), printable(f.where), f.severity) for f in result.findings)
    error = None if result.error is None else printable(result.error) or "failed"
    return CheckResult(result.check, result.examined, result.milliseconds, findings, error)
