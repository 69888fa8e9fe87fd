# SPDX-License-Identifier: GPL-2.0-or-later
"""Which looks have to be made again with new registers before they count."""

from __future__ import annotations

import pytest

from vinci.introspect.findings import Check, CheckResult, Finding, Look, Severity, Verdict, rests_on_registers


def row(check: Check, severity: Severity | None) -> CheckResult:
    return CheckResult(check, 1, 0.1, (Finding(check, "what", "where", severity),) if severity else ())


@pytest.mark.parametrize(
    ("tampered", "again"),
    [
        ((), False),
        ((Check.PLACE,), True),
        ((Check.PLACE, Check.ADDRESS_SPACES), True),
        ((Check.PLACE, Check.TEXT), False),
        ((Check.HOOKS,), False),
    ],
)
def test_a_look_is_made_again_when_all_that_it_found_rests_on_registers(
    tampered: tuple[Check, ...], again: bool
) -> None:
    rows = tuple(row(check, Severity.TAMPERED if check in tampered else None) for check in Check)
    assert rests_on_registers(Look("vm", Verdict.COMPROMISED, rows, 1.0)) is again


def test_a_note_changes_nothing() -> None:
    rows = (row(Check.PLACE, Severity.TAMPERED), row(Check.USER_PAGES, Severity.NOTE))
    assert rests_on_registers(Look("vm", Verdict.COMPROMISED, rows, 1.0))
