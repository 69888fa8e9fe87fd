# SPDX-License-Identifier: GPL-2.0-or-later
"""Sends packets from VM to VM of one node, on paper: through the rules of every bridge and FW-VM on the way.

The rules are read back from their JSON by `vinci.policy.readback_rules`; place and address of each VM are the plan's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from vinci.model.infrastructure import Protocol
from vinci.plan.bridge_rules import bridge_ruleset
from vinci.plan.firewall_rules import INNER, TRANSIT_SIDE, firewall_ruleset
from vinci.plan.types import TRANSIT, Nic, NodePlan, Vm, VmKind
from vinci.policy.readback_rules import Packet, RuleSet

MAX_HOPS = 4
"""VCN, transit, VCN, and one to spare."""
_CLIENT_PORT, _GATEWAY_PORT = 40_000, 40_001


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet that arrived. `gateway` is the FW-VM and number of the gateway that opened a connection of its own."""

    gateway: tuple[str, int] | None


class Walk:
    """Sends packets from VM to VM of one node, through every rule set on the way.

    These are the `bridges`', and those of the `firewalls` by their VMs' names.
    """

    def __init__(self, node: NodePlan) -> None:
        self.cards = [(vm, nic) for vm in node.vms for nic in vm.nics]
        self.bridges = RuleSet(json.dumps(bridge_ruleset(node.bridges)))
        self.firewalls = {each.vm: RuleSet(json.dumps(firewall_ruleset(each))) for each in node.firewalls}
        self._ports = {each.community: self.firewalls[each.vm].ports() for each in node.firewalls}
        self._at = {(nic.network, nic.address): (vm, nic) for vm, nic in self.cards}

    def ports(self, community: str | None) -> frozenset[int]:
        """Every port that the rules of a community's FW-VM name."""
        return self._ports.get(community or "", frozenset())

    def is_apart(self, source: Vm, target: Vm, other: Nic) -> bool:
        """True when no routes lead from one VM to another: then no rule of any FW-VM is ever asked."""
        vm, hops = source, 0
        while vm is not target:
            onward = self._next(vm, other.address)
            hops += 1
            if onward is None or hops > MAX_HOPS:
                return True
            vm = onward[1][0]
            if vm is not target and vm.kind is not VmKind.FW:
                return True
        return False

    def crosses(self, source: Vm, target: Vm, other: Nic, protocol: Protocol, port: int) -> Arrival | None:
        """How the first packet to a service arrives, if it does."""
        packet = _packet(source.nics[0].address, other.address, protocol, _CLIENT_PORT, port, opening=True)
        return self._arrives(source, target, other, packet)

    def answers(self, source: Vm, target: Vm, other: Nic, protocol: Protocol, port: int, arrival: Arrival) -> bool:
        """Whether the answer to a packet that arrived gets back."""
        card = source.nics[0]
        packet = _packet(other.address, card.address, protocol, port, _CLIENT_PORT, opening=False)
        if arrival.gateway is None:
            return self._arrives(target, source, card, packet) is not None
        name, number = arrival.gateway
        vm = next(vm for vm, _nic in self.cards if vm.name == name)
        wall, (inner, outer) = self.firewalls[name], _inner_and_outer(vm)
        to_gateway = _packet(other.address, inner.address, protocol, port, _GATEWAY_PORT, opening=False)
        if not self.bridges.passes("forward", _framed(to_gateway, other, inner)):
            return False
        if not wall.passes("input", {**to_gateway, "meta iifname": INNER}):
            return False
        # Conntrack gives the answer its source back only after the output hook.
        said = _packet(outer.address, card.address, protocol, number, _CLIENT_PORT, opening=False)
        remembered: dict[str, Any] = {"ct original ip daddr": str(other.address), "ct original proto-dst": port}
        if not wall.passes("output", {**said, **remembered, "meta oifname": TRANSIT_SIDE}):
            return False
        return self._arrives(vm, source, card, packet) is not None

    def _arrives(self, source: Vm, target: Vm, other: Nic, packet: dict[str, Any]) -> Arrival | None:
        vm = source
        for _hop in range(MAX_HOPS):
            onward = self._next(vm, other.address)
            if onward is None:
                return None
            out, neighbour = onward
            if not self.bridges.passes("forward", _framed(packet, out, neighbour[1])):
                return None
            vm, entered = neighbour
            if vm is target:
                return Arrival(None) if entered is other else None
            if vm.kind is not VmKind.FW:
                return None
            left = self._next(vm, other.address)
            if left is None:
                return None
            wall = self.firewalls[vm.name]
            routed = {**packet, "meta iifname": _side(entered), "meta oifname": _side(left[0]), "meta nfproto": "ipv4"}
            number = wall.led_to(routed)
            if number is not None:
                return self._through(vm, number, routed, other)
            if not wall.passes("forward", routed):
                return None
        return None

    def _through(self, vm: Vm, number: int, packet: dict[str, Any], other: Nic) -> Arrival | None:
        """A gateway takes the connection and opens one of its own to the target."""
        wall, (inner, _outer) = self.firewalls[vm.name], _inner_and_outer(vm)
        if not wall.passes("input", packet):
            return None
        own = _packet(inner.address, other.address, Protocol.TCP, _GATEWAY_PORT, packet["th dport"], opening=True)
        if not wall.passes("output", {**own, "meta skuid": number, "meta oifname": INNER}):
            return None
        if other.network != inner.network or not self.bridges.passes("forward", _framed(own, inner, other)):
            return None
        return Arrival((vm.name, number))

    def _next(self, vm: Vm, address: IPv4Address) -> tuple[Nic, tuple[Vm, Nic]] | None:
        """The card that a VM sends from and the neighbour it sends to: the longest route that fits (RFC 1812)."""
        for nic in vm.nics:
            if (nic.network, address) in self._at:
                return nic, self._at[(nic.network, address)]
        routes = sorted(vm.routes, key=lambda route: route.network.prefixlen, reverse=True)
        for route in routes:
            if address in route.network:
                for nic in vm.nics:
                    if (nic.network, route.via) in self._at:
                        return nic, self._at[(nic.network, route.via)]
        return None


def _inner_and_outer(vm: Vm) -> tuple[Nic, Nic]:
    inner, outer = vm.nics
    return inner, outer


def _side(nic: Nic) -> str:
    return TRANSIT_SIDE if nic.network == TRANSIT else INNER


def _packet(
    source: IPv4Address, target: IPv4Address, protocol: Protocol, source_port: int, port: int, *, opening: bool
) -> dict[str, Any]:
    packet: dict[str, Any] = {
        **{"ip saddr": str(source), "ip daddr": str(target), "meta l4proto": protocol.value},
        **{f"{protocol} sport": source_port, f"{protocol} dport": port, "th sport": source_port, "th dport": port},
        "ct state": "new" if opening else "established",
        "ct direction": "original" if opening else "reply",
    }
    if protocol is Protocol.TCP:
        packet["tcp flags"] = frozenset({"syn"} if opening else {"syn", "ack"})
    return packet


def _framed(packet: dict[str, Any], out: Nic, into: Nic) -> Packet:
    """The packet as a bridge sees it. A port's device group is its address as a number."""
    frame = {"ether type": "ip", "ether saddr": out.mac, "ether daddr": into.mac}
    return {**packet, **frame, "meta iifgroup": int(out.address), "meta oifgroup": int(into.address)}
