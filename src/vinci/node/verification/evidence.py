# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps what explains a mismatch: the checks, the node's state, every rule set and table that was in force."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nftables import Nftables

from vinci.node.channel import ChannelError
from vinci.node.printable import printable
from vinci.node.status import status_of
from vinci.node.verification.checks import Check

if TYPE_CHECKING:
    from vinci.node.agent import Agent

_GUEST_STATE = """dmesg | tail -n 200; ip address; ip route; nft list ruleset; mount; ps ax
cat /run/vinci/status /run/vinci/rc.log /proc/vinci/grants /etc/exports"""
RECORDS = 2000
LOG_BYTES = 256 * 1024
KEPT_FOLDERS = 20


async def keep_evidence(agent: Agent, checks: list[Check]) -> Path:
    """Write a folder of files that a person can read without the running system; its path."""
    folder = agent.paths.root / "evidence" / time.strftime("%Y%m%dT%H%M%S")
    folder.mkdir(parents=True, mode=0o700)
    for old in sorted(folder.parent.iterdir())[:-KEPT_FOLDERS]:
        shutil.rmtree(old, ignore_errors=True)
    (folder / "checks.json").write_text(json.dumps([check.as_json() for check in checks], indent=1))
    (folder / "status.json").write_text(json.dumps(await status_of(agent), indent=1))
    (folder / "audit.jsonl").write_text("\n".join(agent.audit.past(max(0, agent.audit.next_id - RECORDS))))
    _status, rules, _error = await asyncio.to_thread(Nftables().cmd, "list ruleset")
    (folder / "bridge-rules.nft").write_text(str(rules))
    (folder / "agent.log").write_bytes(_tail(agent.paths.log))
    await asyncio.gather(*(_keep_guest(agent, vm.name, folder) for vm in agent.wanted_vms()))
    return folder


async def _keep_guest(agent: Agent, vm: str, folder: Path) -> None:
    """What a guest says of itself, and what it printed; both are the guest's own words."""
    (folder / f"{vm}.console.txt").write_text(printable_lines(agent.consoles.untrusted_text(vm)))
    try:
        state = (await agent.guests.channel(vm).run(_GUEST_STATE, seconds=20)).text
    except ChannelError as error:
        state = str(error)
    (folder / f"{vm}.txt").write_text(printable_lines(state))


def printable_lines(untrusted: str) -> str:
    """Lines that do nothing to the terminal of whoever reads them."""
    return "".join(printable(line) + "\n" for line in untrusted.splitlines())


def _tail(log: Path) -> bytes:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
        return file.read()
