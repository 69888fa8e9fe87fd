# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan is a function of the file: same file, same plan; addresses are identities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vinci.model.load import load
from vinci.plan.compile import compile_plan
from vinci.plan.difference import difference
from vinci.plan.file_tables import subject_table
from vinci.plan.types import Plan, VmKind

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile_plan(load(EXAMPLES / "hospital.yaml").infrastructure)


def test_address_and_label_are_one_to_one(plan: Plan) -> None:
    cards = [(nic, vm) for node in plan.nodes for vm in node.vms for nic in vm.nics]
    assert len({nic.address for nic, _ in cards}) == len(cards)
    assert len({nic.mac for nic, _ in cards}) == len(cards)
    assert len({nic.tap for nic, _ in cards}) == len(cards)
    for community in plan.communities:
        for nic, vm in cards:
            if vm.kind is VmKind.APP:
                assert (nic.address in community.network) == (vm.community == community.name)


def test_app_vms_reach_only_services_and_not_each_other(plan: Plan) -> None:
    kinds = {nic.tap: vm.kind for node in plan.nodes for vm in node.vms for nic in vm.nics}
    for bridge in plan.nodes[0].bridges:
        taps = {port.tap for port in bridge.ports}
        for port in bridge.ports:
            assert set(port.peers) <= taps
            if kinds[port.tap] is VmKind.APP:
                assert {kinds[peer] for peer in port.peers} <= {VmKind.FS, VmKind.FW}


def test_peers_are_mutual(plan: Plan) -> None:
    for bridge in plan.nodes[0].bridges:
        pairs = {(port.tap, peer) for port in bridge.ports for peer in port.peers}
        assert pairs == {(b, a) for a, b in pairs}


def test_only_fw_vms_are_on_the_transit_network(plan: Plan) -> None:
    for vm in plan.nodes[0].vms:
        if any(nic.network == "transit" for nic in vm.nics):
            assert vm.kind is VmKind.FW


def test_no_session_means_an_empty_subject_table(plan: Plan) -> None:
    node = plan.nodes[0]
    assert subject_table(node.file_services[0], node, []) == ""


def test_subject_table_holds_only_the_pairs_of_open_sessions(plan: Plan) -> None:
    node = plan.nodes[0]
    member = next(m for m in node.file_services[0].members if m.user == "sally")
    vm = next(vm for vm in node.vms if vm.community == member.community and vm.kind is VmKind.APP)
    table = subject_table(node.file_services[0], node, [(vm.name, "sally", member.community)])
    rows = [line.split("\t") for line in table.splitlines()]
    assert [row[:2] for row in rows] == [
        [str(vm.nics[0].address), "0"],
        [str(vm.nics[0].address), str(member.local_uid)],
    ]
    assert "mount_t" in rows[0][4]
    assert rows[1][4] == member.context


def test_a_session_in_a_foreign_community_gets_no_subject(plan: Plan) -> None:
    node = plan.nodes[0]
    foreign = next(vm for vm in node.vms if vm.kind is VmKind.APP and vm.community != "nurses")
    assert subject_table(node.file_services[0], node, [(foreign.name, "sally", "nurses")]) == ""


def test_difference_names_what_changes(plan: Plan) -> None:
    assert difference(plan, plan) == []
    node = plan.nodes[0]
    fewer = replace(plan, nodes=(replace(node, vms=node.vms[:-1]),))
    assert difference(plan, fewer) == [f"stop VM {node.vms[-1].name}"]
    assert difference(fewer, plan)[0].startswith(f"start VM {node.vms[-1].name} (APP-VM")
