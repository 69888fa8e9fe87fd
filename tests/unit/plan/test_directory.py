# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose an address is: the directory says what the plan says, without making one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from strategies import infrastructures

from vinci.model.infrastructure import Infrastructure
from vinci.model.load import load
from vinci.plan.compile import compile_plan
from vinci.plan.directory import Directory

EXAMPLES = Path(__file__).parents[3] / "examples"


@given(infrastructures())
def test_every_planned_card_is_found_by_address_and_port(infrastructure: Infrastructure) -> None:
    agree(infrastructure)


@pytest.mark.parametrize("name", ["hospital", "utility", "company"])
def test_the_examples(name: str) -> None:
    agree(load(EXAMPLES / f"{name}.yaml").infrastructure)


def agree(infrastructure: Infrastructure) -> None:
    directory, planned = Directory(infrastructure), {}
    plan = compile_plan(infrastructure)
    for vm in plan.nodes[0].vms:
        for nic in vm.nics:
            planned[nic.address] = (vm.name, vm.kind, vm.community, nic.address, nic.mac, nic.bridge)
            assert directory.card_with(nic.tap) == directory.card_at(str(nic.address))
    networks = [infrastructure.transit, *(community.network for community in plan.communities)]
    for network in networks:
        for offset in range(min(24, network.num_addresses)):
            card = directory.card_at(network[offset])
            found = None if card is None else (card.vm, card.kind, card.community, card.address, card.mac, card.bridge)
            assert found == planned.get(network[offset])


@pytest.mark.parametrize("untrusted", ["", "8.8.8.8", "not an address", "10.30.2.300", None, "vzz", "v0a1e020", "eth0"])
def test_what_is_no_address_or_port_is_nobodys(untrusted: object) -> None:
    directory = Directory(load(EXAMPLES / "utility.yaml").infrastructure)
    assert directory.card_at(untrusted) is None
    assert directory.community_at(untrusted) is None
    assert directory.card_with(str(untrusted)) is None
