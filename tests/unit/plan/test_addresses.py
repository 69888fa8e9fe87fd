# SPDX-License-Identifier: GPL-2.0-or-later
"""An address is an identity: of one card, of one community, and of its label."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from strategies import infrastructures

from vinci.model.infrastructure import Infrastructure
from vinci.model.labels import PlannedLabel, resolve_labels
from vinci.plan.compile import compile_plan
from vinci.plan.types import TRANSIT, VmKind


@given(infrastructures())
@settings(max_examples=150, deadline=None)
def test_address_and_label_determine_each_other(infrastructure: Infrastructure) -> None:
    """From an address follow the network, the community and the label; from a community exactly its addresses."""
    plan = compile_plan(infrastructure)
    resolve = resolve_labels(infrastructure)
    declared = {name: resolve(entry.label) for name, entry in infrastructure.communities.items()}
    assert {community.name: community.label for community in plan.communities} == declared
    networks = {community.network: community.name for community in plan.communities}
    assert len(networks) == len(declared)
    ours = list(networks)
    assert not any(one.overlaps(other) for one in ours for other in ours if one is not other)

    def label_of(address: IPv4Address) -> PlannedLabel:
        (network,) = [each for each in networks if address in each]
        return declared[networks[network]]

    addresses: dict[str, set[IPv4Address]] = {name: set() for name in declared}
    cards = [(vm, nic) for node in plan.nodes for vm in node.vms for nic in vm.nics]
    for what in ({nic.address for _, nic in cards}, {nic.mac for _, nic in cards}, {nic.tap for _, nic in cards}):
        assert len(what) == len(cards)
    for vm, nic in cards:
        if nic.network == TRANSIT:
            assert nic.address in infrastructure.transit
            assert not any(nic.address in network for network in networks)
            continue
        assert networks[IPv4Network((nic.address, nic.prefix), strict=False)] == nic.network
        if vm.kind is VmKind.APP:
            assert vm.community == nic.network
            assert vm.label == label_of(nic.address)
            addresses[nic.network].add(nic.address)
    for name, found in addresses.items():
        mine = [vm for vm, _ in cards if vm.kind is VmKind.APP and vm.community == name]
        assert len(found) == len(mine)
        assert all(label_of(address) == declared[name] for address in found)
