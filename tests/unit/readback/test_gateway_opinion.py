# SPDX-License-Identifier: GPL-2.0-or-later
"""A gateway that lets through more or less than its flow declares is noticed, and one that can be passed by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vinci.guest.gateway.settings import read_settings
from vinci.model.infrastructure import Infrastructure
from vinci.model.inspection import HttpMethod, ModbusFunction
from vinci.model.load import load
from vinci.plan import second_opinion, walk
from vinci.plan.compile import compile_plan
from vinci.plan.gateway_table import gateway_table
from vinci.plan.nft import Ruleset
from vinci.plan.second_opinion import check_packets
from vinci.plan.types import Firewall, FlowRule, Plan
from vinci.policy.readback_files import ReadbackError
from vinci.policy.readback_gateways import read_gateways

EXAMPLE = Path(__file__).parents[3] / "examples" / "utility.yaml"


@pytest.fixture(scope="module")
def utility() -> tuple[Infrastructure, Plan]:
    infrastructure = load(EXAMPLE).infrastructure
    return infrastructure, compile_plan(infrastructure)


def doctored(plan: Plan, change: Callable[[FlowRule], FlowRule]) -> Plan:
    """The plan with inspected flows changed on both sides."""

    def all_of(flows: tuple[FlowRule, ...]) -> tuple[FlowRule, ...]:
        return tuple(change(flow) if flow.gateway is not None else flow for flow in flows)

    def in_one(wall: Firewall) -> Firewall:
        return replace(wall, inbound=all_of(wall.inbound), outbound=all_of(wall.outbound))

    node = plan.nodes[0]
    return replace(plan, nodes=(replace(node, firewalls=tuple(in_one(wall) for wall in node.firewalls)),))


def with_inspection(**changes: object) -> Callable[[FlowRule], FlowRule]:
    def change(flow: FlowRule) -> FlowRule:
        assert flow.gateway is not None
        known = type(flow.gateway.inspection).model_fields
        update = {key: value for key, value in changes.items() if key in known}
        return replace(
            flow, gateway=replace(flow.gateway, inspection=flow.gateway.inspection.model_copy(update=update))
        )

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_inspection(functions=tuple(ModbusFunction)), "lets functions through that are not declared"),
        (with_inspection(functions=(ModbusFunction.READ_HOLDING_REGISTERS,)), "refuses declared functions: 4"),
        (with_inspection(units=("1-3",)), "lets units through that are not declared: 3"),
        (with_inspection(registers=("0-100",)), "lets registers through that are not declared: 100"),
        (with_inspection(rate=1000), "lets rate through"),
        (with_inspection(methods=tuple(HttpMethod)), "lets methods through that are not declared"),
        (with_inspection(paths=("/*",)), "lets paths through that are not declared: /*"),
        (with_inspection(max_body_bytes=1), "lets max_body_bytes through"),
        (lambda flow: replace(flow, gateway=None), "passes without its modbus gateway"),
    ],
)
def test_an_artefact_that_says_otherwise_is_noticed(
    utility: tuple[Infrastructure, Plan], change: Callable[[FlowRule], FlowRule], said: str
) -> None:
    infrastructure, plan = utility
    wrong = doctored(plan, change)
    if said.startswith("passes"):  # the bridges are closed to it as well
        flows = tuple(flow.model_copy(update={"inspection": None}) for flow in infrastructure.flows)
        wrong = compile_plan(infrastructure.model_copy(update={"flows": flows}))
    assert any(said in each.text for each in check_packets(infrastructure, wrong))


@pytest.mark.parametrize(
    ("chain", "left_out", "said"),
    [
        ("output", "skuid", "scada-fw: user 0 may send an opening packet of tcp to 10.30.2.10 at eth0, port 502"),
        ("input", "ct original ip daddr", ""),
        ("input", "ct original proto-dst", ""),
        ("input", "both", "an opening packet of tcp from 10.30.3.10 at eth1, port 20000, gets in"),
        ("redirect", "all", "declared and dropped"),
    ],
)
def test_a_rule_that_says_less_is_noticed(
    utility: tuple[Infrastructure, Plan], monkeypatch: pytest.MonkeyPatch, chain: str, left_out: str, said: str
) -> None:
    infrastructure, plan = utility
    rules = walk.firewall_ruleset

    def weaker(wall: Firewall) -> Ruleset:
        commands = []
        for command in rules(wall)["nftables"]:
            rule = command.get("add", {}).get("rule")
            if rule is not None and rule["chain"] == chain:
                if left_out == "all":
                    continue
                rule["expr"] = [each for each in rule["expr"] if not _names(each, left_out)]
            commands.append(command)
        return {"nftables": commands}

    monkeypatch.setattr(walk, "firewall_ruleset", weaker)
    found = [each.text for each in second_opinion.check_packets(infrastructure, plan)]
    assert any(said in text for text in found) if said else found == []


def _names(statement: dict[str, object], left_out: str) -> bool:
    match statement:
        case {"match": {"left": {"meta": {"key": key}}}}:
            return key == left_out
        case {"match": {"left": {"ct": {"key": key, "dir": _}}}}:
            return left_out in (f"ct original {key}", "both")
    return False


def test_the_gateways_read_the_table_as_it_is_meant(utility: tuple[Infrastructure, Plan]) -> None:
    for wall in utility[1].nodes[0].firewalls:
        table = gateway_table(wall)
        read = read_gateways(table)
        for line in table.splitlines():
            settings = read_settings(line)
            gateway = read[settings.number]
            assert {str(address) for address in gateway.sources} == settings.sources
            assert {str(address) for address in gateway.targets} == settings.targets
            assert (gateway.port, gateway.passing["rate"]) == (settings.port, {settings.rate})


@pytest.mark.parametrize(
    "line",
    [
        "20000",
        "20000 dnp3 flow=0 sources=10.0.0.1 targets=10.0.0.2 port=1 rate=1",
        "20000 http flow=0 sources=10.0.0.1 targets=10.0.0.2 port=80 rate=1 methods=GET paths=/",
        "20000 http flow=0 sources=x targets=10.0.0.2 port=80 rate=1 methods=GET paths=/ max_body_bytes=0",
        "2 http flow=0 sources=10.0.0.1 targets=10.0.0.2 port=80 rate=1 methods=GET paths=/ max_body_bytes=0 more=1",
    ],
)
def test_a_table_that_is_not_understood_is_an_error(line: str) -> None:
    with pytest.raises(ReadbackError):
        read_gateways(line + "\n")


@pytest.mark.parametrize("community", ["database", "scada", "software"])
def test_a_community_without_an_app_vm_makes_no_rules_that_name_nobody(community: str) -> None:
    declared = load(EXAMPLE).infrastructure
    data = declared.model_dump(mode="json", by_alias=True, exclude_unset=True)
    data["communities"][community]["app_vms"] = {"mode": "per-user"}
    data["users"] = {name: user for name, user in data["users"].items() if community not in user["communities"]}
    infrastructure = Infrastructure.model_validate(data)
    plan = compile_plan(infrastructure)
    flows = [flow for wall in plan.nodes[0].firewalls for flow in (*wall.inbound, *wall.outbound)]
    assert all(flow.source_addresses and flow.to_addresses for flow in flows)
    assert list(check_packets(infrastructure, plan)) == []
