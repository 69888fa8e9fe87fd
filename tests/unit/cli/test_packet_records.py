# SPDX-License-Identifier: GPL-2.0-or-later
"""Why an FW-VM let a packet or a request not cross, on records as the agent writes them."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from vinci.cli.decision import Decision, UnexplainedError
from vinci.cli.records import explain_record
from vinci.model.load import Declaration, load, parse
from vinci.plan.firewall_rules import FlowDenial

UTILITY = Path(__file__).parents[3] / "examples" / "utility.yaml"
SCADA, DATABASE, SOFTWARE = "10.30.2.10", "10.30.3.10", "10.30.1.10"


@pytest.fixture(scope="module")
def utility() -> Declaration:
    return load(UTILITY)


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(UTILITY.read_text().splitlines(), 1) if text in line)


def denied(
    reason: str, source: str | None, target: str | None, port: str | None, protocol: str = "TCP"
) -> dict[str, Any]:
    fields = {"claimed_source": source, "claimed_target": target, "target_port": port, "protocol": protocol}
    told = {key: value for key, value in fields.items() if value is not None}
    return {"id": 17, "event": "flow-denied", "firewall": "software-fw", "vm": "software-1", "reason": reason, **told}


def deciding(denial: Decision) -> set[int]:
    return {each.position.line for each in denial.explanation.grounds if each.position and each.decides}


def texts(denial: Decision) -> str:
    return "\n".join(each.text for each in denial.explanation.grounds)


def test_a_flow_that_nobody_declared_is_told_label_by_label(utility: Declaration) -> None:
    denial = explain_record(utility, denied("not-declared", SOFTWARE, SCADA, "502"))
    assert denial.place == "nftables of FW-VM software-fw, forward"
    assert denial.rule.startswith("not-declared: only packets of declared flows")
    assert denial.explanation.question == f"{SOFTWARE} -> {SCADA} tcp/502"
    assert not denial.explanation.allowed
    assert f"{SOFTWARE} is software-1 of software" in texts(denial)
    assert "software has the label office {tools}" in texts(denial)
    assert "scada has the label control {tools, process}" in texts(denial)
    assert "no flow permits software to reach modbus (tcp/502) of scada" in texts(denial)
    assert "there is a flow the other way, from scada to software: http" in texts(denial)
    lines = {each.position.line for each in denial.explanation.grounds if each.position}
    assert {line_of("    label: toolmaking"), line_of("    label: plant")} <= lines
    assert denial.explanation.change.startswith(
        "declare a flow from software to scada with `upward: true`, `trusted: true`"
    )


def test_a_declared_flow_denied_all_the_same(utility: Declaration) -> None:
    denial = explain_record(utility, denied("not-declared", DATABASE, SCADA, "502"))
    assert "was not then, or the packet opened no connection" in denial.rule
    assert line_of("- from: database") in deciding(denial)


def test_an_answer_by_a_diode(utility: Declaration) -> None:
    denial = explain_record(utility, denied("not-declared", DATABASE, SCADA, "5140", "UDP"))
    assert "there is a flow the other way, from scada to database: alarms (udp/5140)" in texts(denial)


@pytest.mark.parametrize("reason", list(FlowDenial))
@pytest.mark.parametrize("source", [SOFTWARE, "10.30.1.1", "10.30.1.77", "8.8.8.8", None])
@pytest.mark.parametrize("target", [SCADA, "10.30.2.2", "10.255.0.2", None])
@pytest.mark.parametrize(("port", "protocol"), [("22", "TCP"), (None, "ICMP"), ("0", "UDP"), ("70000", "47")])
def test_every_reason_is_explained(
    utility: Declaration, reason: FlowDenial, source: str | None, target: str | None, port: str | None, protocol: str
) -> None:
    denial = explain_record(utility, denied(reason, source, target, port, protocol))
    assert denial.rule.startswith(f"{reason}: ")
    assert "software-fw" in denial.place
    assert not denial.explanation.allowed
    assert any(each.decides for each in denial.explanation.grounds)
    assert denial.explanation.change


def test_an_address_of_nobody_in_a_network_names_its_community(utility: Declaration) -> None:
    denial = explain_record(utility, denied("spoofed", "10.30.3.77", SCADA, "502"))
    assert deciding(denial) == {line_of("  database:")}


def test_a_reason_that_no_firewall_gives(utility: Declaration) -> None:
    with pytest.raises(UnexplainedError, match="no reason that is known"):
        explain_record(utility, denied("whim", SOFTWARE, SCADA, "502"))


@pytest.mark.parametrize(
    ("address", "said"),
    [(SCADA, "scada declares 0x88b8"), ("10.30.2.1", "scada-fw is no APP-VM"), (SOFTWARE, "software declares no ethe")],
)
def test_an_ethertype_that_is_not_declared(address: str, said: str) -> None:
    declared = parse(
        UTILITY.read_bytes().replace(b"    label: plant\n", b"    label: plant\n    ethertypes: [0x88b8]\n", 1)
    )
    port = "v" + IPv4Address(address).packed.hex()
    denial = explain_record(declared, {"id": 9, "event": "packet-dropped", "reason": "ethertype", "port": port})
    assert denial.rule.startswith("ethertype: only IPv4, ARP and the ethertypes that the port's community declares")
    assert said in texts(denial)
    if address != SOFTWARE:
        assert {line_of("    label: plant") + 1} <= deciding(denial)


def test_lost_records_are_explained_without_a_line(utility: Declaration) -> None:
    record = {"id": 3, "event": "packet-dropped", "message": "5 records of dropped packets were lost"}
    denial = explain_record(utility, record)
    assert "was dropped all the same" in denial.rule
    assert denial.explanation.grounds[0].text == "5 records of dropped packets were lost"
    with pytest.raises(UnexplainedError, match="no reason that is known"):
        explain_record(utility, {**record, "reason": "whim"})
