# SPDX-License-Identifier: GPL-2.0-or-later
"""What sessions and running VMs may not outlive: a change of what they rest on."""

from __future__ import annotations

from pathlib import Path

import pytest

from vinci.node.entitled import keeps_right, must_end
from vinci.node.in_force import derive
from vinci.store.sqlite import Session
from vinci.vmm.domain import Accelerator, machine_digest

TEXT = """
vinci: 1
name: small
labels: {levels: [low, high]}
communities:
  staff: {label: {level: low}, network: 10.1.0.0/24}
  office: {label: {level: high}, network: 10.2.0.0/24, app_vms: {mode: per-user}}
users:
  anna: {uid: 20001, communities: {staff: {local_uid: 1000}, office: {}}, trusted: true, reason: works in both of them}
  ben: {uid: 20002, communities: {staff: {local_uid: 1001}}}
nodes: {n1: {}}
"""
OLD = derive("n1", 1, "small.yaml", TEXT.encode())
ANNA = Session("a", "anna", "staff", "staff-1", 1.0, "login")
BEN = Session("b", "ben", "staff", "staff-1", 2.0, "login")
IN_OFFICE = Session("c", "anna", "office", "office-anna", 3.0, "login")
ALL = (ANNA, BEN, IN_OFFICE)


def _kept(*changes: tuple[str, str]) -> list[str]:
    """The sessions that go on after these changes of the file."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    after = derive("n1", 2, "small.yaml", text.encode())
    return [session.id for session in ALL if keeps_right(session, OLD, after)]


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ([("vinci: 1", "vinci: 1 # the same")], ["a", "b", "c"]),
        ([("levels: [low, high]", "levels: [lowest, low, high]")], ["a", "b", "c"]),
        ([("local_uid: 1000", "local_uid: 1002")], ["b", "c"]),
        ([("uid: 1000", "uid: x"), ("uid: 1001", "uid: 1000"), ("uid: x", "uid: 1001")], ["c"]),
        ([("uid: 20002", "uid: 20003")], ["a", "c"]),
        ([("staff: {local_uid: 1000}, ", "")], ["b", "c"]),
        ([(", office: {}", "")], ["a", "b"]),
        ([("staff: {label: {level: low}", "staff: {label: {level: high}")], ["c"]),
        ([("mode: per-user", "mode: shared")], ["a", "b"]),
    ],
    ids=["nothing", "a new level", "UID", "swapped UIDs", "global UID", "left", "left the other", "label", "shared"],
)  # fmt: skip
def test_a_session_ends_with_what_it_rests_on(changes: list[tuple[str, str]], kept: list[str]) -> None:
    assert _kept(*changes) == kept


def test_after_a_start_of_the_agent_only_the_declaration_counts() -> None:
    assert [session.id for session in ALL if keeps_right(session, None, OLD)] == ["a", "b", "c"]


def test_an_app_vm_does_not_go_on_under_another_label() -> None:
    """Its memory holds what was read under the old one."""
    after = derive(
        "n1", 2, "small.yaml", TEXT.replace("office: {label: {level: high}", "office: {label: {level: low}").encode()
    )
    assert must_end(OLD, after) == ["office-anna"]
    digests = [
        {name: machine_digest(vm, "image", Accelerator.TCG) for name, vm in in_force.vms.items()}
        for in_force in (OLD, after)
    ]
    assert {name for name in digests[0] if digests[0][name] != digests[1][name]} == {"office-anna"}


def test_examples_are_unchanged_by_themselves() -> None:
    for path in (Path(__file__).parents[3] / "examples").glob("*.yaml"):
        in_force = derive("n1", 1, str(path), path.read_bytes())
        assert must_end(in_force, in_force) == []
