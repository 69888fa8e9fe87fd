# SPDX-License-Identifier: GPL-2.0-or-later
"""What an installation under test says of its VMs' trust, and waiting for it. No command is started for it: on a busy
machine that would take longer than what is waited for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from installation import Installation

from vinci.cli.client import get
from vinci.cli.failure import Failure
from vinci.node.paths import NodePaths


def trust_of(installation: Installation) -> dict[str, dict[str, Any]]:
    """The trust in each VM, as `vinci status --json` has it."""
    status = asyncio.run(get(NodePaths(installation.state, "n1"), "/v1/status"))
    return {vm["name"]: vm["trust"] for vm in status["vms"]}


def wait_for(
    installation: Installation, holds: Callable[[dict[str, dict[str, Any]]], bool], seconds: float = 60
) -> dict[str, dict[str, Any]]:
    """The VMs' trust as soon as something holds for it."""
    deadline = time.monotonic() + seconds
    seen: dict[str, dict[str, Any]] = {}
    while time.monotonic() < deadline:
        with suppress(Failure, OSError):  # the agent may be on its way back
            seen = trust_of(installation)
            if holds(seen):
                return seen
        time.sleep(0.1)
    raise AssertionError(
        f"it did not come to that: {[(vm, trust['verdict'], told(trust)) for vm, trust in seen.items()]}"
    )


def told(trust: dict[str, Any]) -> list[str]:
    """What is wrong with a VM."""
    rows = trust["look"]["results"] if trust["look"] else []
    found = [f"{row['check']}: {f['what']} ({f['where']})" for row in rows for f in row["findings"]]
    return [trust["reason"], *(f"{row['check']}: {row['error']}" for row in rows if row["error"]), *found]


def records(installation: Installation, since: int = 0) -> list[dict[str, Any]]:
    """The audit's records from a number on."""
    lines = (installation.state / "n1" / "audit.jsonl").read_text().splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in whole if record["id"] >= since]


def next_record(installation: Installation) -> int:
    """The number that the audit's next record gets."""
    return max((record["id"] for record in records(installation)), default=0) + 1


def event_of(
    installation: Installation, since: int, event: str, vm: str | None = None, seconds: float = 60
) -> dict[str, Any]:
    """The first record of an event, of a VM or of any, from a number on; fails when none comes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for record in records(installation, since):
            if record["event"] == event and vm in (None, record.get("vm")):
                return record
        time.sleep(0.05)
    raise AssertionError(f"no such audit record; these came: {records(installation, since)[-10:]}")
