# SPDX-License-Identifier: GPL-2.0-or-later
"""A change of the file as a change of flows."""

from __future__ import annotations

from pathlib import Path

import pytest
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


UTILITY = HOSPITAL.with_name("utility.yaml")


def opened(instead_of: str, written: str) -> list[str]:
    """The ways down that a change of the utility opens."""
    text = UTILITY.read_text()
    assert instead_of in text
    changed = parse(text.replace(instead_of, written, 1).encode()).infrastructure
    found = flow_changes(load(UTILITY).infrastructure, changed)
    return [change.text for change in found if change.kind is ChangeKind.OPENS_DOWNWARD]


@pytest.mark.parametrize(
    ("instead_of", "written"),
    [
        ("functions: [read-holding-registers,", "functions: [write-register, read-holding-registers,"),
        ("registers: [0-99, 1000-1049]", "registers: [0-100, 1000-1049]"),
        ("units: [1, 2]", "units: [1-3]"),
        ("rate: 20", "rate: 21"),
        ("methods: [GET, HEAD]", "methods: [GET, POST]"),
        ("paths: [/news, /tools/*]", "paths: [/news, /tools/*, /t]"),
        ("max_body_bytes: 0", "max_body_bytes: 1"),
        ("    inspection:\n      gateway: http\n      methods: [GET, HEAD]\n      paths: [/news, /tools/*]\n"
         "      rate: 10\n      max_body_bytes: 0\n", ""),
    ],
)  # fmt: skip
def test_a_gateway_that_lets_more_through_is_a_new_way_down(instead_of: str, written: str) -> None:
    """The way is trusted for what its gateway lets through: nobody has been asked about more."""
    assert len(opened(instead_of, written)) >= 1


@pytest.mark.parametrize(
    ("instead_of", "written"),
    [
        ("functions: [read-holding-registers, read-input-registers]", "functions: [read-holding-registers]"),
        ("registers: [0-99, 1000-1049]", "registers: [0-50, 51-99]"),
        ("units: [1, 2]", "units: [1-2]"),
        ("rate: 20", "rate: 2"),
        ("paths: [/news, /tools/*]", "paths: [/tools/new/*]"),
    ],
)
def test_a_gateway_that_lets_less_through_opens_nothing(instead_of: str, written: str) -> None:
    assert opened(instead_of, written) == []


def test_a_way_down_from_a_higher_label_than_before_is_a_new_one() -> None:
    """The trusted hop stays what it was by name; what it carries does not."""
    text = UTILITY.read_text().replace("levels: [office, control]", "levels: [office, control, secret]")
    old = parse(text.encode()).infrastructure
    raised = parse(text.replace("level: control}", "level: secret}").encode()).infrastructure
    ways = [change for change in flow_changes(old, raised) if change.kind is ChangeKind.OPENS_DOWNWARD]
    assert any("scada" in change.text for change in ways)
    assert [change for change in flow_changes(raised, old) if change.kind is ChangeKind.OPENS_DOWNWARD] == []
