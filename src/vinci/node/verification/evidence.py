# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps what explains a mismatch: the checks, the node's state, every rule set and table that was in force."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nftables import Nftables

from vinci.node.channel import ChannelError
from vinci.node.status import status_of
from vinci.node.verification.checks import Check

if TYPE_CHECKING:
    from vinci.node.agent import Agent

_GUEST_STATE = """dmesg | tail -n 200; ip address; ip route; nft list ruleset; mount; ps ax
cat /run/vinci/status /run/vinci/start.log /proc/vinci/grants /etc/exports"""
RECORDS = 2000
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
    for vm in agent.wanted_vms():
        try:
            state = await agent.guests.channel(vm.name).run(_GUEST_STATE, seconds=20)
            (folder / f"{vm.name}.txt").write_text(state.text)
        except ChannelError as error:
            (folder / f"{vm.name}.txt").write_text(str(error))
    return folder
