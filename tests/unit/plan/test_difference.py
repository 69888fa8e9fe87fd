# SPDX-License-Identifier: GPL-2.0-or-later
"""What a new file changes, told as `plan` tells it: nothing that changes is left out, nothing else is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from vinci.model.infrastructure import Infrastructure
from vinci.model.load import parse
from vinci.plan.compile import compile_plan
from vinci.plan.difference import declared_changes, difference

EXAMPLE = Path(__file__).parents[3] / "examples" / "hospital.yaml"
TEXT = EXAMPLE.read_text()
HASHES = [line.split("password_hash: ")[1] for line in TEXT.splitlines() if "password_hash" in line]


def _read(text: str) -> Infrastructure:
    return parse(text.encode(), "hospital.yaml").infrastructure


OLD = _read(TEXT)


def _told(old: str, new: str) -> list[str]:
    assert old in TEXT
    after = _read(TEXT.replace(old, new))
    return difference(compile_plan(OLD), compile_plan(after)) + declared_changes(OLD, after)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (TEXT, TEXT + "# a comment", []),
        (HASHES[2], HASHES[0], ["change users.sally.password_hash of the file"]),
        ("between: 13:00-15:00", "between: 08:00-20:00", ["change login.1.between of the file"]),
        ("  - {user: bruno, community: administration, between: 13:00-15:00}", "  []", ["change login of the file"]),
        ("nodes:", "introspection: {period_ms: 60000}\nnodes:", ["change introspection.period_ms of the file"]),
        ("nodes:", "services: {x: {port: 5555}}\nnodes:", ["change services of the file"]),
        ("sworn to keep the two apart", "sworn, and watched", ["change users.bruno.reason of the file"]),
    ],
    ids=["comment", "password", "login rule", "no login rule", "watch", "service", "reason"],
)
def test_what_no_machine_shows_is_told(old: str, new: str, told: list[str]) -> None:
    assert _told(old, new) == told


def test_no_hash_is_shown() -> None:
    assert not any(part in line for line in _told(HASHES[2], HASHES[0]) for part in HASHES)


def test_a_response_restarts_no_vm() -> None:
    told = _told("    label: care\n    network", "    label: care\n    response: stop\n    network")
    assert told == [f"change what is done when VM {name} is compromised: stop" for name in ("nurses-fw", "nurses-1")]


def test_another_label_restarts_the_vms_where_users_work() -> None:
    told = _told("    care: ", "    care: {level: restricted, categories: [ward, patients]}  # was: ")
    assert "restart VM nurses-1: its definition changes" in told
    assert "restart VM nurses-fw: its definition changes" not in told


def test_another_uid_is_told_as_one() -> None:
    told = _told("communities: {nurses: {}}", "communities: {nurses: {local_uid: 1500}}")
    assert "change the UID of sally in nurses: sessions there end" in told
    assert not any(line.startswith(("remove sally", "add sally")) for line in told)
