# SPDX-License-Identifier: GPL-2.0-or-later
"""What an FW-VM's kernel says of a packet is read as that packet's, whatever the packet quotes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from vinci.node.agent import Agent
from vinci.node.audit import Audit
from vinci.node.events import _record_firewall_denial

ERROR = (
    "vinci-fw invalid IN=eth0 OUT=eth1 MAC=02:56 SRC=10.30.3.10 DST=10.30.2.10 LEN=61 TTL=63 ID=4358 PROTO=ICMP TYPE=3 "
    "CODE=3 [SRC=10.30.2.10 DST=10.30.3.10 LEN=33 TTL=62 ID=8507 DF PROTO=UDP SPT=5141 DPT=5140 LEN=13 ]"
)


def records(tmp_path: Path, *lines: str) -> list[dict[str, Any]]:
    agent = cast(Agent, SimpleNamespace(in_force=None, audit=Audit(tmp_path / "audit.jsonl")))
    for line in lines:
        _record_firewall_denial(agent, "database-fw", line)
    return [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]


def test_an_error_of_icmp_is_not_taken_for_the_packet_that_it_quotes(tmp_path: Path) -> None:
    (record,) = records(tmp_path, ERROR)
    assert (record["claimed_source"], record["claimed_target"]) == ("10.30.3.10", "10.30.2.10")
    assert (record["protocol"], record.get("target_port")) == ("ICMP", None)


def test_other_lines_make_no_record(tmp_path: Path) -> None:
    assert records(tmp_path, "", "[vinci-fw invalid SRC=1]", "vinci-fw invented SRC=10.0.0.1", "vinci-fw") == []
