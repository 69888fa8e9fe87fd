# SPDX-License-Identifier: GPL-2.0-or-later
"""What `vinci inspect` prints and keeps of a VM whose incident is older than the look."""

from __future__ import annotations

from typing import Any

import pytest

from vinci.cli.inspect import _print_look


def _row(*what: str, error: str | None = None) -> dict[str, Any]:
    found = [{"check": "kernel-hooks", "what": text, "where": "here", "severity": "tampered"} for text in what]
    return {"check": "kernel-hooks", "examined": 1, "milliseconds": 1.0, "findings": found, "error": error}


def test_what_was_found_before_is_shown_beside_a_look_that_no_longer_finds_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = {
        "verdict": "compromised",
        "reason": "",
        "response": "alert",
        "releasable": False,
        "incident_findings": [
            *_row("a hook", "a module")["findings"],
            {"check": "kernel-hooks", "what": "kernel-hooks failed: too long", "where": "", "severity": "tampered"},
        ],
    }
    look = {"vm": "sales-1", "results": [_row("a module", error="too long")], "milliseconds": 1.0}
    _print_look(look, state)
    before = [line for line in capsys.readouterr().out.splitlines() if "found before" in line]
    assert before == ["found before, since it is compromised: kernel-hooks: a hook (here)"]
    _print_look({**look, "results": [_row()]}, state)
    assert capsys.readouterr().out.count("found before") == 3
