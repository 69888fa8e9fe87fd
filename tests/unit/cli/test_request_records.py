# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a gateway let a request not through, on records as the agent writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vinci.cli.decision import Decision, UnexplainedError
from vinci.cli.records import explain_record
from vinci.guest.gateway.protocol import Reason
from vinci.model.load import Declaration, load, parse

UTILITY = Path(__file__).parents[3] / "examples" / "utility.yaml"
SCADA, DATABASE = "10.30.2.10", "10.30.3.10"
BY_LINE = {Reason.OPERATION, Reason.UNIT, Reason.PLACE, Reason.RATE, Reason.OVERSIZED}


@pytest.fixture(scope="module")
def utility() -> Declaration:
    return load(UTILITY)


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(UTILITY.read_text().splitlines(), 1) if text in line)


def request(number: object, **more: object) -> dict[str, Any]:
    return {
        **{"id": 18, "event": "request-denied", "firewall": "scada-fw", "vm": "database-1"},
        **{"flow": "database -> scada", "flow_number": number, "reason": "operation-not-declared"},
        **{"claimed_source": DATABASE, "claimed_target": SCADA, "request": "write-register 3"},
        **more,
    }


def deciding(denial: Decision) -> set[int | None]:
    return {each.position.line if each.position else None for each in denial.explanation.grounds if each.decides}


def texts(denial: Decision) -> str:
    return "\n".join(each.text for each in denial.explanation.grounds)


def test_a_request_that_a_gateway_denied_names_what_may_pass(utility: Declaration) -> None:
    denial = explain_record(utility, request(0))
    assert denial.place == "the modbus gateway on FW-VM scada-fw"
    assert denial.rule == "operation-not-declared: only requests that the declaration names pass"
    assert denial.explanation.question == "database asks scada: write-register 3"
    assert deciding(denial) == {line_of("gateway: modbus") - 1}
    assert "functions read-holding-registers, read-input-registers" in texts(denial)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_an_explanation_of_its_own(utility: Declaration, reason: Reason) -> None:
    """Only where the flow's `inspection` decides is its line the one on which the answer rests."""
    denial = explain_record(utility, request(0, reason=reason.value))
    assert denial.rule.startswith(f"{reason}: ")
    assert ("the declaration names" in denial.rule) == (reason in {Reason.OPERATION, Reason.UNIT, Reason.PLACE})
    assert deciding(denial) == ({line_of("gateway: modbus") - 1} if reason in BY_LINE else {None})
    assert denial.explanation.change


def test_a_reason_that_no_gateway_gives(utility: Declaration) -> None:
    with pytest.raises(UnexplainedError, match="no reason that is known: whim"):
        explain_record(utility, request(0, reason="whim"))


@pytest.mark.parametrize("number", [1, 99, -1, None, "0"])
def test_a_flow_that_has_another_number_now_is_found_by_its_ends(utility: Declaration, number: object) -> None:
    denial = explain_record(utility, request(number))
    assert deciding(denial) == {line_of("gateway: modbus") - 1}
    assert "it was flow" in texts(denial)


def test_one_of_two_gateways_between_the_same_ends() -> None:
    text = UTILITY.read_text()
    second = """flows:
  - from: database
    to: scada
    service: tcp/1502
    inspection: {gateway: modbus, functions: [read-coils], units: [9], registers: [0-9]}
    upward: true
    trusted: true
    reason: a second meter, read in the same way
"""
    two = parse(text.replace("flows:\n", second, 1).encode())
    denial = explain_record(two, request(1))
    assert "functions read-holding-registers" in texts(denial)
    assert "or it was this flow" in texts(denial)


@pytest.mark.parametrize("flow", ["scada -> database", "gone -> scada", ""])
def test_a_gateway_that_is_no_longer_declared_is_told_without_a_line(utility: Declaration, flow: str) -> None:
    addresses = {} if flow else {"claimed_source": "10.99.0.1"}
    denial = explain_record(utility, request(0, flow=flow, **addresses))
    assert denial.place == "the gateway on FW-VM scada-fw"
    assert "with a gateway is declared any more" in texts(denial)
    assert deciding(denial) == {None}


def test_a_record_without_its_flow_is_found_by_addresses(utility: Declaration) -> None:
    denial = explain_record(utility, request(0, flow=""))
    assert denial.explanation.question == "database asks scada: write-register 3"
