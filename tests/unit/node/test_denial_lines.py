# SPDX-License-Identifier: GPL-2.0-or-later
"""Denials that guests and bridges tell of: read as what they are, and one source's flood hides no other's."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vinci.node.agent import Agent
from vinci.node.audit import Audit
from vinci.node.budget import BURST
from vinci.node.denials import Denials
from vinci.node.events import Watch, _record_drop, _record_file_denial, _record_firewall_denial
from vinci.node.packet_log import DroppedFrame
from vinci.plan.bridge_filter import DropReason

ERROR = (
    "vinci-fw invalid IN=eth0 OUT=eth1 MAC=02:56 SRC=10.30.3.10 DST=10.30.2.10 LEN=61 TTL=63 ID=4358 PROTO=ICMP TYPE=3 "
    "CODE=3 [SRC=10.30.2.10 DST=10.30.3.10 LEN=33 TTL=62 ID=8507 DF PROTO=UDP SPT=5141 DPT=5140 LEN=13 ]"
)


PLAN = SimpleNamespace(
    vms=[
        SimpleNamespace(
            name=name, community=name, nics=[SimpleNamespace(address=IPv4Address(address), tap=f"v-{name}")]
        )
        for name, address in (("doctors-1", "10.20.1.10"), ("nurses-1", "10.20.2.10"))
    ]
)


class Watched:
    """A watcher whose audit can be read."""

    def __init__(self, tmp_path: Path, in_force: object = None) -> None:
        self.path = tmp_path / "audit.jsonl"
        self.watch = Watch(cast(Agent, SimpleNamespace(in_force=in_force, audit=Audit(self.path))))

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def hospital(tmp_path: Path) -> Watched:
    return Watched(tmp_path, SimpleNamespace(node_plan=PLAN, plan=SimpleNamespace(members=[])))


def records(tmp_path: Path, *lines: str) -> list[dict[str, Any]]:
    watched = Watched(tmp_path)
    for line in lines:
        _record_firewall_denial(watched.watch, "database-fw", line)
    return watched.records


def test_an_error_of_icmp_is_not_taken_for_the_packet_that_it_quotes(tmp_path: Path) -> None:
    (record,) = records(tmp_path, ERROR)
    assert (record["claimed_source"], record["claimed_target"]) == ("10.30.3.10", "10.30.2.10")
    assert (record["protocol"], record.get("target_port")) == ("ICMP", None)


def test_other_lines_make_no_record(tmp_path: Path) -> None:
    assert records(tmp_path, "", "[vinci-fw invalid SRC=1]", "vinci-fw invented SRC=10.0.0.1", "vinci-fw") == []


def _file_denial(address: str) -> str:
    return json.dumps({"address": address, "uid": 20001, "operation": "read", "share": "prescriptions"})


def test_a_flood_of_one_communitys_file_denials_hides_no_other_communitys(hospital: Watched) -> None:
    for _ in range(BURST + 50):
        _record_file_denial(hospital.watch, "files", _file_denial("10.20.1.10"))
    _record_file_denial(hospital.watch, "files", _file_denial("10.20.2.10"))
    assert [record["vm"] for record in hospital.records].count("doctors-1") < BURST + 20
    assert hospital.records[-1]["vm"] == "nurses-1"


def test_a_flood_from_one_vm_hides_no_others_packets_at_a_firewall(hospital: Watched) -> None:
    line = "vinci-fw invalid SRC=10.20.1.10 DST=10.20.3.10 PROTO=TCP DPT=22"
    for _ in range(BURST + 50):
        _record_firewall_denial(hospital.watch, "doctors-fw", line)
    _record_firewall_denial(hospital.watch, "doctors-fw", line.replace("10.20.1.10", "10.20.2.10"))
    assert hospital.records[-1]["vm"] == "nurses-1"


def test_a_flood_of_one_kind_of_frames_hides_no_other_kind(hospital: Watched) -> None:
    def drop(reason: DropReason) -> None:
        _record_drop(hospital.watch, DroppedFrame("v-doctors-1", reason, "", "", 0))

    for _ in range(BURST + 50):
        drop(DropReason.NOT_A_PEER)
    drop(DropReason.SPOOFED_MAC)
    assert (hospital.records[-1]["vm"], hospital.records[-1]["reason"]) == ("doctors-1", "spoofed-mac")


def test_invented_addresses_are_one_source(hospital: Watched) -> None:
    for number in range(BURST + 500):
        _record_file_denial(hospital.watch, "files", _file_denial(f"172.16.{number >> 8}.{number & 255}"))
    assert len(hospital.records) < BURST + 20


def test_what_was_left_out_names_its_source(hospital: Watched) -> None:
    now = 0.0
    hospital.watch.denials = Denials(hospital.watch.agent.audit, lambda: now)
    for _ in range(BURST + 50):
        _record_file_denial(hospital.watch, "files", _file_denial("10.20.1.10"))
    now = 1.0
    _record_file_denial(hospital.watch, "files", _file_denial("10.20.1.10"))
    told = [record for record in hospital.records if record["event"] == "records-left-out"]
    assert [(record["source"], record["number"]) for record in told] == [("files doctors-1", 50)]
    assert told[0]["message"] == "50 more denials of doctors-1 at files came too fast to be recorded"
