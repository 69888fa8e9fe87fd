# SPDX-License-Identifier: GPL-2.0-or-later
"""A change of the file as a change of flows."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from strategies import infrastructures

from vinci.model.infrastructure import Infrastructure
from vinci.model.load import load, parse
from vinci.policy.changes import ChangeKind, flow_changes

HOSPITAL = Path(__file__).parents[3] / "examples" / "hospital.yaml"


def changes(instead_of: str, written: str) -> list[tuple[ChangeKind, str]]:
    text = HOSPITAL.read_text()
    assert instead_of in text
    changed = parse(text.replace(instead_of, written, 1).encode()).infrastructure
    return [(change.kind, change.text) for change in flow_changes(load(HOSPITAL).infrastructure, changed)]


def test_a_grant_is_gained_and_lost() -> None:
    assert changes("{doctors: [read, write], nurses: [read]}", "{doctors: [write], nurses: [read, execute]}") == [
        (ChangeKind.LOSES, "doctors loses read on prescriptions"),
        (ChangeKind.GAINS, "nurses gains execute on prescriptions"),
    ]


def test_a_flow_that_goes_up_opens_nothing_downward() -> None:
    diode = (
        "flows:\n  - {from: doctors, to: nurses, service: syslog, direction: one-way, upward: true, reason: alarms}\n"
    )
    assert changes("flows:\n", diode.replace("alarms", "alarms only")) == [
        (ChangeKind.GAINS, "doctors can reach syslog (udp/514) of nurses one-way")
    ]


def test_a_flow_that_goes_down_is_told_apart() -> None:
    flow = "flows:\n  - {from: nurses, to: doctors, service: ssh, trusted: true, reason: the doctors' own notes}\n"
    ((gained, text), (opened, way)) = changes("flows:\n", flow)
    assert (gained, text) == (ChangeKind.GAINS, "nurses can reach ssh (tcp/22) of doctors")
    assert opened is ChangeKind.OPENS_DOWNWARD
    assert way.startswith("information of nurses gets down to doctors: nurses sends requests")
    assert "trusted: the doctors' own notes" in way


def test_a_membership() -> None:
    found = changes("communities: {nurses: {}}", "communities: {nurses: {}, doctors: {}}")
    assert found[0] == (ChangeKind.GAINS, "sally joins doctors")
    assert found[1][0] is ChangeKind.OPENS_DOWNWARD
    assert "unexplained" in found[1][1]


def test_a_label() -> None:
    found = changes("label: accounts", "label: everything")
    assert (ChangeKind.GAINS, "share billing has the label restricted {patients, ward, finance}") in found
    assert (ChangeKind.LOSES, "share billing no longer has the label restricted {patients, finance}") in found


@given(infrastructures(leaky=True), infrastructures(leaky=True))
@settings(max_examples=50)
def test_there_and_back(first: Infrastructure, second: Infrastructure) -> None:
    assert flow_changes(first, first) == ()
    there, back = flow_changes(first, second), flow_changes(second, first)
    assert {change.path for change in there if change.kind is ChangeKind.GAINS} == {
        change.path for change in back if change.kind is ChangeKind.LOSES
    }
    assert all(change.kind is not ChangeKind.LOSES for change in flow_changes(None, first))
