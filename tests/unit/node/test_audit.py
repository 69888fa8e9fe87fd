# SPDX-License-Identifier: GPL-2.0-or-later
"""The audit: one record a line whatever the text, whole after a crash, nothing lost to followers by rotation."""

import asyncio
import json
import os
import resource
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinci.node import audit as module
from vinci.node.audit import Audit, Event, Severity


def _ids(lines: list[str]) -> list[int]:
    return [json.loads(line)["id"] for line in lines]


def _note(audit: Audit, message: str = "it happened", **fields: str) -> None:
    audit.record(Event.LOGIN, Severity.INFO, message, **fields)


@given(st.text(st.characters(), max_size=300))
def test_no_text_forges_a_record_or_reaches_the_terminal(
    tmp_path_factory: pytest.TempPathFactory, untrusted: str
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    _note(Audit(path), untrusted, user=untrusted)
    (line,) = path.read_bytes().splitlines()
    record = json.loads(line)
    assert record["message"].isprintable()
    assert record["user"].isprintable()


def test_a_line_cut_off_by_a_crash_spoils_no_other_record(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first = Audit(path)
    _note(first)
    with path.open("ab") as file:
        file.write(b'{"id": 2, "ti')
    second = Audit(path)
    _note(second)
    assert _ids(list(second.past(0))) == [1, 2]


def test_it_is_not_for_everybody(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        _note(Audit(tmp_path / "audit.jsonl"))
    finally:
        os.umask(previous)
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o027 == 0


def test_rotated_records_are_still_told_and_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 400)

    async def follow() -> list[str]:
        audit = Audit(tmp_path / "audit.jsonl")
        _note(audit)
        got: list[str] = []
        async with aclosing(audit.follow(0)) as lines:
            async for line in lines:
                got.append(line)
                if len(got) == 30:
                    return got
                _note(audit)
                if len(got) % 5 == 0:  # a follower that is slower than the records
                    _note(audit)
        return got

    assert _ids(asyncio.run(follow())) == list(range(1, 31))
    again = Audit(tmp_path / "audit.jsonl")
    kept = _ids(list(again.past(0)))
    assert kept == list(range(kept[0], again.next_id))
    assert len(kept) > 5


def test_a_full_disk_does_not_stop_the_agent_and_is_told_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    _note(audit)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ: a write beyond the limit is short, then fails, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
    try:
        _note(audit, "cut off")
        _note(audit, "lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    _note(audit, "room again")
    told = [json.loads(line) for line in audit.past(0)]
    assert [record["message"] for record in told if record["event"] == "login"] == ["it happened", "room again"]
    assert [record["lost"] for record in told if "lost" in record] == [2]
