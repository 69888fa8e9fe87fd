# SPDX-License-Identifier: GPL-2.0-or-later
"""The step between two plans permits nothing that one of them does not, and keeps what both permit."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import setools
from hypothesis import given, settings
from hypothesis import strategies as st
from libsepol import compile_in_process
from random_declarations import random_declaration

from vinci.model.infrastructure import Infrastructure
from vinci.plan.compile import compile_plan
from vinci.plan.narrowing import narrowed
from vinci.plan.types import FlowRule, NodePlan, Plan
from vinci.policy.readback_files import FilePolicy, ReadbackError

Right = tuple[str, str, str, tuple[str, str]]


@st.composite
def changes(draw: st.DrawFn) -> tuple[Infrastructure, Infrastructure]:
    """A declaration, and the same with grants, flows, memberships, UIDs and labels taken away or changed."""
    random = draw(st.randoms(use_true_random=False))
    data = random_declaration(random)
    other = copy.deepcopy(data)
    for share in other["shares"].values():
        for grantee in list(share["access"]):
            if share.get("kind") != "homes" and random.randint(0, 2) == 0:
                share["access"][grantee] = random.choice((["read"], ["append"], ["read", "write"]))
        if random.randint(0, 4) == 0:
            share.pop("trusted", None)
    other["flows"] = [flow for flow in other["flows"] if random.randint(0, 1)]
    for flow in other["flows"]:
        if "inspection" in flow and random.randint(0, 1):
            flow["inspection"]["rate"] = 7
    for user in list(other["users"]):
        if random.randint(0, 4) == 0 and not any(user in g for s in other["shares"].values() for g in s["access"]):
            del other["users"][user]
    for user in other["users"].values():
        if random.randint(0, 3) == 0:
            user["uid"] = 59_999 - user["uid"] % 1000  # who has rights of one's own is another one now
    if random.randint(0, 3) == 0:
        first = next(iter(other["communities"].values()))
        first["label"] = {"level": other["labels"]["levels"][-1], "categories": []}
    pair = (Infrastructure.model_validate(data), Infrastructure.model_validate(other))
    return pair if random.randint(0, 1) else (pair[1], pair[0])


def size(*both: Infrastructure) -> tuple[int, int]:
    return max(len(each.labels.levels) for each in both), max(len(each.labels.categories) for each in both)


@lru_cache(maxsize=16)
def opened(cil: str, folder: Path) -> FilePolicy:
    path = folder / "policy"
    path.write_bytes(compile_in_process(cil))
    return FilePolicy(setools.SELinuxPolicy(str(path)))


def rights(node: NodePlan, folder: Path) -> set[Right]:
    """What each member may do with each share by the compiled policies: (member, share, class, permission)."""
    found: set[Right] = set()
    for service in node.file_services:
        policy = opened(service.policy_cil, folder)
        for member in service.members:
            for share in service.shares:
                try:
                    subject, target = policy.context(member.context), policy.context(share.context)
                except ReadbackError:
                    continue  # a context that the kernel does not take: everything is denied
                who = f"{member.community}:{member.user}"
                found |= {(service.vm, who, share.name, each) for each in policy.permitted(subject, target)}
    return found


def packets(node: NodePlan) -> set[tuple[Any, ...]]:
    """Each (FW-VM, side, source, target, service, what its gateway lets through) of every flow."""

    def of(vm: str, side: str, flow: FlowRule) -> set[tuple[Any, ...]]:
        ends = {(source, to) for source in flow.source_addresses for to in flow.to_addresses}
        inspection = flow.gateway and flow.gateway.inspection
        return {(vm, side, *end, flow.protocol, flow.port, flow.one_way, inspection) for end in ends}

    return {
        each
        for firewall in node.firewalls
        for side, flows in (("out", firewall.outbound), ("in", firewall.inbound))
        for flow in flows
        for each in of(firewall.vm, side, flow)
    }


@given(pair=changes())
@settings(max_examples=40)
def test_nothing_passes_in_between_that_one_of_the_two_forbids(
    pair: tuple[Infrastructure, Infrastructure], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    old, new = map(compile_plan, pair)
    between = narrowed(old, new, "n1", *size(*pair))
    assert between is not None
    before, after, now = (rights(node, folder) for node in (old.nodes[0], new.nodes[0], between))
    assert now <= before & after
    assert packets(between) <= packets(old.nodes[0]) & packets(new.nodes[0])
    flows = [flow for each in between.firewalls for flow in (*each.outbound, *each.inbound)]
    assert all(flow.source_addresses and flow.to_addresses for flow in flows), "nftables takes no empty sets"


@given(seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_where_nothing_changes_nothing_goes(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    infrastructure = Infrastructure.model_validate(random_declaration(Random(seed)))
    plan, folder = compile_plan(infrastructure), tmp_path_factory.getbasetemp()
    between = narrowed(plan, plan, "n1", *size(infrastructure))
    assert between is not None
    assert rights(between, folder) == rights(plan.nodes[0], folder)
    assert packets(between) == packets(plan.nodes[0])


def test_a_node_that_only_one_plan_has() -> None:
    plan = compile_plan(Infrastructure.model_validate(random_declaration(Random(1))))
    assert narrowed(plan, Plan(plan.name, (), (), (), ()), "n1", 1, 1) is None
