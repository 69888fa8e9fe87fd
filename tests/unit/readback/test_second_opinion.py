# SPDX-License-Identifier: GPL-2.0-or-later
"""What is enforced says the same as what was declared; a doctored artefact does not, and is noticed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import setools
from hypothesis import given, settings
from libsepol import compile_in_process
from strategies import infrastructures

from vinci.model.infrastructure import Direction, Infrastructure
from vinci.model.load import load, parse
from vinci.node.payload import compile_policy
from vinci.plan.compile import compile_plan
from vinci.plan.second_opinion import Disagreement, check_files, check_packets
from vinci.plan.types import Bridge, Plan
from vinci.policy.readback_files import ReadbackError
from vinci.policy.readback_rules import RuleSet

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = ("hospital", "utility", "company")


def opened(cil: str, folder: Path) -> Any:
    path = folder / "policy"
    path.write_bytes(compile_policy(cil))
    return setools.SELinuxPolicy(str(path))


def files(infrastructure: Infrastructure, plan: Plan, folder: Path) -> Iterator[Disagreement]:
    for service in plan.nodes[0].file_services:
        yield from check_files(infrastructure, service, opened(service.policy_cil, folder))


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str, tmp_path: Path) -> None:
    infrastructure = load(EXAMPLES / f"{name}.yaml").infrastructure
    plan = compile_plan(infrastructure)
    assert list(files(infrastructure, plan, tmp_path)) == []
    assert list(check_packets(infrastructure, plan)) == []


@given(infrastructure=infrastructures())
@settings(max_examples=40)
def test_random_policies(infrastructure: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "policy"
    for service in compile_plan(infrastructure).nodes[0].file_services:
        path.write_bytes(compile_in_process(service.policy_cil))
        assert list(check_files(infrastructure, service, setools.SELinuxPolicy(str(path)))) == []


@given(infrastructure=infrastructures())
@settings(max_examples=60)
def test_random_rules(infrastructure: Infrastructure) -> None:
    assert list(check_packets(infrastructure, compile_plan(infrastructure))) == []


# -- doctored artefacts: what a fault in a compiler would look like --------------------------------------------------


@pytest.fixture(scope="module")
def company() -> tuple[Infrastructure, Plan]:
    infrastructure = load(EXAMPLES / "company.yaml").infrastructure
    return infrastructure, compile_plan(infrastructure)


@pytest.fixture(scope="module")
def hospital() -> tuple[Infrastructure, Plan]:
    infrastructure = load(EXAMPLES / "hospital.yaml").infrastructure
    return infrastructure, compile_plan(infrastructure)


ADDED = [
    ("(allow nurses_t prescriptions_share_t (file (append)))", "types alone would permit append"),
    ("(allow nurses_t billing_share_t (dir (getattr)))", "types alone would show names"),
    ("(allow nurses_subjects log_share_t (file (read)))", "types alone would permit read"),
    ("(allow doctors_subjects prescriptions_share_t (file (execute)))", "execute is possible and not declared"),
    ("(allow vinci_manage_t log_share_t (file (read)))", "vinci_manage_t has more than it needs"),
    ("(allow doctors_mount_t log_share_t (file (append)))", "doctors_mount_t has more than it needs"),
    ("(allow nurses_mount_t billing_share_t (dir (getattr)))", "nurses_mount_t has more than it needs"),
    ("(allow doctors_t nurses_t (process (transition)))", "doctors_t may become another subject"),
    ("(userrole sally_u doctors_r)", "sally can act in doctors: not declared"),
    ("(typepermissive nurses_t)", "permissive"),
    ("(typetransition doctors_t log_share_t file billing_share_t)", "allow rules only"),
]
REMOVED = [
    (r"\(userrole sally_u nurses_r\)", "nurses:sally has no subject"),
    (r"\(allow doctors_subjects billing_share_t \(file.*", "append is declared and not possible"),
    (r"\(mlsconstrain \(file \(read .*", "labels alone would permit read"),
    (r"\(mlsconstrain \(file \(write\).*", "labels alone would permit write"),
    (r"\(mlsconstrain \(file \(create append\).*", "labels alone would permit append"),
]


@pytest.mark.parametrize(("added", "said"), ADDED)
def test_a_policy_with_a_rule_too_many_is_noticed(
    hospital: tuple[Infrastructure, Plan], tmp_path: Path, added: str, said: str
) -> None:
    infrastructure, plan = hospital
    (service,) = plan.nodes[0].file_services
    found = check_files(infrastructure, service, opened(f"{service.policy_cil}{added}\n", tmp_path))
    assert any(said in each.text for each in found)


@pytest.mark.parametrize(("removed", "said"), REMOVED)
def test_a_policy_with_a_rule_too_few_is_noticed(
    hospital: tuple[Infrastructure, Plan], tmp_path: Path, removed: str, said: str
) -> None:
    infrastructure, plan = hospital
    (service,) = plan.nodes[0].file_services
    cil, number = re.subn(removed, "", service.policy_cil)
    assert number == 1
    found = list(check_files(infrastructure, service, opened(cil, tmp_path)))
    assert any(said in each.text for each in found)


def test_a_subject_outside_of_the_policy_is_noticed(company: tuple[Infrastructure, Plan], tmp_path: Path) -> None:
    """The defect that this comparison found: a type that only another server's policy has."""
    infrastructure, plan = company
    service = next(each for each in plan.nodes[0].file_services if each.vm == "homes")
    erna = next(member for member in service.members if (member.user, member.community) == ("erna", "engineering"))
    wrong = replace(erna, context=erna.context.replace("engineering_t", "engineering_erna_own_t"))
    members = tuple(wrong if member is erna else member for member in service.members)
    found = check_files(infrastructure, replace(service, members=members), opened(service.policy_cil, tmp_path))
    assert [each.text.partition(":")[0] for each in found] == ["engineering"]


def with_node(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, nodes=(replace(plan.nodes[0], **changes),))


def test_a_firewall_that_permits_too_little_or_too_much_is_noticed(hospital: tuple[Infrastructure, Plan]) -> None:
    infrastructure, plan = hospital
    closed = tuple(replace(each, inbound=()) for each in plan.nodes[0].firewalls)
    missing = [each.text for each in check_packets(infrastructure, with_node(plan, firewalls=closed))]
    assert any("administration-1 -> nurses-1" in text and "declared and dropped" in text for text in missing)
    assert any(text.startswith("nurses-fw alone: an opening packet") for text in missing)
    opened_ports = tuple(
        replace(
            each,
            inbound=tuple(replace(rule, port=4711) for rule in each.inbound),
            outbound=tuple(replace(rule, port=4711) for rule in each.outbound),
        )
        for each in plan.nodes[0].firewalls
    )
    found = [each.text for each in check_packets(infrastructure, with_node(plan, firewalls=opened_ports))]
    assert any("tcp/4711: passes and is not declared" in text for text in found)


def test_bridge_ports_that_are_peers_and_should_not_be_are_noticed() -> None:
    text = (EXAMPLES / "hospital.yaml").read_text()
    text = text.replace("    network: 10.20.1.0/24\n", "    network: 10.20.1.0/24\n    app_vms: {count: 2}\n")
    infrastructure = parse(text.encode()).infrastructure
    plan = compile_plan(infrastructure)
    assert list(check_packets(infrastructure, plan)) == []

    def with_peers(bridge: Bridge, everybody: bool) -> Bridge:
        taps = tuple(port.tap for port in bridge.ports if everybody)
        return replace(bridge, ports=tuple(replace(port, peers=taps) for port in bridge.ports))

    together = [with_peers(bridge, True) for bridge in plan.nodes[0].bridges]
    found = check_packets(infrastructure, with_node(plan, bridges=together))
    assert {each.text.partition(" at ")[0] for each in found} == {"doctors-1 -> doctors-2", "doctors-2 -> doctors-1"}
    found = check_packets(
        infrastructure, with_node(plan, bridges=[with_peers(b, False) for b in plan.nodes[0].bridges])
    )
    assert {each.text.partition(" ")[0] for each in found} >= {"doctors-1", "nurses-1", "administration-1"}


def test_a_diode_with_a_way_back_is_noticed() -> None:
    infrastructure = load(EXAMPLES / "utility.yaml").infrastructure
    plan = compile_plan(infrastructure)
    flows = tuple(flow.model_copy(update={"direction": Direction.BOTH}) for flow in infrastructure.flows)
    both_ways = compile_plan(infrastructure.model_copy(update={"flows": flows})).nodes[0]
    found = [each.text for each in check_packets(infrastructure, replace(plan, nodes=(both_ways,)))]
    assert any("udp/5140: answers pass" in text for text in found)
    assert any(text.startswith("scada-fw alone: an answer of udp/5140") for text in found)
    # Bridges and FW-VMs close the way back each by itself.
    for firewalls, bridges in (
        (both_ways.firewalls, plan.nodes[0].bridges),
        (plan.nodes[0].firewalls, both_ways.bridges),
    ):
        found = [
            each.text for each in check_packets(infrastructure, with_node(plan, firewalls=firewalls, bridges=bridges))
        ]
        assert not any("answers pass" in text for text in found)


@pytest.mark.parametrize(
    "rule",
    [
        [{"match": {"op": "<", "left": {"meta": {"key": "mark"}}, "right": 3}}],
        [{"quota": {}}],
        [{"match": {"op": "==", "left": {"socket": {"key": "mark"}}, "right": 3}}],
        [{"limit": {"rate": 5}}, {"accept": None}],
        [{"jump": {"target": "forward"}}],
    ],
)
def test_a_rule_that_is_not_understood_is_an_error(rule: list[dict[str, Any]]) -> None:
    chain = {"add": {"chain": {"name": "forward", "hook": "forward", "policy": "drop"}}}
    rules = RuleSet(json.dumps({"nftables": [chain, {"add": {"rule": {"chain": "forward", "expr": rule}}}]}))
    with pytest.raises(ReadbackError):
        rules.passes("forward", {"meta mark": 1})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nftables": [{"flush": {"ruleset": null}}]}', '{"nftables": [3]}'])
def test_text_that_is_no_transaction_is_an_error(text: str) -> None:
    with pytest.raises(ReadbackError):
        RuleSet(text)
