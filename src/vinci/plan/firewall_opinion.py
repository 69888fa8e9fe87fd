# SPDX-License-Identifier: GPL-2.0-or-later
"""What each FW-VM would let cross by itself, read back and compared with the declaration.

A flow crosses two FW-VMs and two bridges, so that one of them may let through too much and nobody notices from end to
end. Here each FW-VM is asked alone, with packets that its neighbours would have stopped: from addresses that nobody
has, on the wrong side, of connections that nobody opened, answers to nothing, ICMP and IPv6.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from vinci.model.infrastructure import Direction, Infrastructure, Protocol
from vinci.model.services import resolve_service
from vinci.plan.firewall_rules import INNER, TRANSIT_SIDE, firewall_ruleset
from vinci.plan.odd_packets import ipv6_packets, messages
from vinci.plan.types import Firewall, NodePlan, VmKind
from vinci.policy.readback_rules import RuleSet

UNDECLARED_PORT = 4711
"""A port that stands for all that no flow names."""
CLIENT_PORT = 40_000


class Packet(StrEnum):
    """What conntrack makes of a packet (nft(8), CT EXPRESSIONS), and which end it comes from."""

    OPENING = "an opening packet"
    TAKEN_UP = "a packet of a connection that nobody opened"
    FOLLOWED = "a further packet"
    ANSWER = "an answer"
    UNASKED = "an answer that nobody asked for"
    TURNED = "a further packet of a connection that the server opened"
    INVALID = "a packet that fits nothing"


BACK = (Packet.ANSWER, Packet.UNASKED, Packet.TURNED)
"""Sent by the end that offers the service."""


@dataclass(frozen=True, slots=True)
class _End:
    """An address, and the community of the APP-VM that has it; None where nobody or another VM has it."""

    address: IPv4Address
    community: str | None


class _Flows:
    """The file's flows by their ends and service."""

    def __init__(self, infrastructure: Infrastructure) -> None:
        self._known: dict[tuple[str | None, str | None, Protocol, int], tuple[Direction, bool]] = {}
        self._services: dict[str, set[tuple[Protocol, int]]] = {name: set() for name in infrastructure.communities}
        self._neighbours: dict[str, set[str]] = {name: set() for name in infrastructure.communities}
        for flow in infrastructure.flows:
            service = resolve_service(infrastructure, flow.service)
            key = (flow.source, flow.to, service.protocol, service.port)
            self._known[key] = (flow.direction, flow.inspection is not None)
            for own, other in ((flow.source, flow.to), (flow.to, flow.source)):
                self._services[own].add((service.protocol, service.port))
                self._neighbours[own].add(other)

    def services(self, community: str) -> list[tuple[Protocol, int]]:
        """Services to try at a community's FW-VM: those of its flows, with both protocols, and one nobody named."""
        if not self._services[community]:
            return [(Protocol.TCP, UNDECLARED_PORT)]
        ports = {port for _, port in self._services[community]} | {UNDECLARED_PORT}
        return [(protocol, port) for protocol in Protocol for port in sorted(ports)]

    def neighbours(self, community: str) -> frozenset[str]:
        """The communities that a community has flows with."""
        return frozenset(self._neighbours[community])

    def is_inspected(self, source: _End, target: _End, protocol: Protocol, port: int) -> bool:
        """True where a gateway ends the connection at the target's FW-VM."""
        return self._known.get((source.community, target.community, protocol, port), (None, False))[1]

    def permits(self, packet: Packet, source: _End, target: _End, protocol: Protocol, port: int) -> bool:
        """Whether a packet of a connection from `source` to a service of `target` may pass, or its answer."""
        direction, _ = self._known.get((source.community, target.community, protocol, port), (None, False))
        if direction is Direction.ONE_WAY:  # not followed: each packet is like the first, and nothing is an answer
            return packet not in BACK
        return direction is Direction.BOTH and packet in (Packet.OPENING, Packet.FOLLOWED, Packet.ANSWER)


def check_firewalls(infrastructure: Infrastructure, node: NodePlan) -> Iterator[str]:
    """What the rules of a node's FW-VMs say otherwise, each taken alone.

    Raises:
        ReadbackError: rules hold something that is not understood.
    """
    flows = _Flows(infrastructure)
    ends = _ends(node)
    for firewall in node.firewalls:
        rules = RuleSet(json.dumps(firewall_ruleset(firewall)))
        yield from (f"{firewall.vm} alone: {text}" for text in _faults(firewall, rules, flows, ends))


def _ends(node: NodePlan) -> dict[str, list[_End]]:
    """Addresses to try in each community: its first and its last APP-VM's, and its FW-VM's own."""
    apps: dict[str, list[_End]] = {firewall.community: [] for firewall in node.firewalls}
    for vm in node.vms:
        if vm.kind is VmKind.APP and vm.community is not None:
            apps[vm.community].append(_End(vm.nics[0].address, vm.community))
    return {
        firewall.community: [*dict.fromkeys([*apps[firewall.community][:1], *apps[firewall.community][-1:]]),
                             _End(firewall.inner_address, None)]
        for firewall in node.firewalls
    }  # fmt: skip


def _faults(firewall: Firewall, rules: RuleSet, flows: _Flows, ends: dict[str, list[_End]]) -> Iterator[str]:
    """Every packet between the firewall's community and its neighbours, and one community that is none."""
    own, others = firewall.community, flows.neighbours(firewall.community)
    stranger = [name for name in ends if name != own and name not in others][:1]
    pairs = [(one, other) for name in (*sorted(others), *stranger) for one in ends[own] for other in ends[name]]
    for one, other in pairs:
        yield from _messages(rules, one, other)
        for protocol, port in flows.services(own):
            yield from _asked(rules, flows, (one, other), (INNER, TRANSIT_SIDE), protocol, port)
            if not flows.is_inspected(other, one, protocol, port):  # its gateway is asked by `second_opinion`
                yield from _asked(rules, flows, (other, one), (TRANSIT_SIDE, INNER), protocol, port)


def _messages(rules: RuleSet, inner: _End, outer: _End) -> Iterator[str]:
    """ICMP, which no flow declares: errors about followed connections cross, each from its own side; and IPv6."""
    ways = (((INNER, TRANSIT_SIDE), (inner, outer)), ((TRANSIT_SIDE, INNER), (outer, inner)))
    for (came, leaves), (sender, receiver) in ways if inner.community and outer.community else ():
        sides, turned = (
            {"meta iifname": one, "meta oifname": other} for one, other in ((came, leaves), (leaves, came))
        )
        for what, fields, is_error in messages():
            sent = {**fields, "ip saddr": str(sender.address), "ip daddr": str(receiver.address)}
            if rules.passes("forward", {**sent, **sides}) != is_error:
                yield f"{what} {sender.address} -> {receiver.address} " + ("is dropped" if is_error else "passes")
            if rules.passes("forward", {**sent, **turned}):
                yield f"{what} {sender.address} -> {receiver.address} passes from the wrong side"
        yield from (f"{what} passes" for what, sent in ipv6_packets() if rules.passes("forward", {**sent, **sides}))


def _asked(
    rules: RuleSet, flows: _Flows, ends: tuple[_End, _End], sides: tuple[str, str], protocol: Protocol, port: int
) -> Iterator[str]:
    """Every packet of a connection from the first to the second end, which lie at these sides."""
    # An address that nobody may use has no connections: its first packet says all.
    packets = Packet if all(end.community for end in ends) else (Packet.OPENING,)
    for packet in packets:
        wanted = flows.permits(packet, *ends, protocol, port)
        (came, leaves), (sender, receiver) = (sides, ends) if packet not in BACK else (sides[::-1], ends[::-1])
        fields = _fields(packet, sender.address, receiver.address, protocol, port)
        text = f"{packet} of {protocol}/{port} {ends[0].address} -> {ends[1].address}"
        if rules.passes("forward", {**fields, "meta iifname": came, "meta oifname": leaves}) != wanted:
            yield f"{text} " + ("is dropped" if wanted else "passes and is not declared")
        if wanted and rules.passes("forward", {**fields, "meta iifname": leaves, "meta oifname": came}):
            yield f"{text} passes from the wrong side"


_STATES = {
    Packet.OPENING: ("new", "original", {"syn"}),
    Packet.TAKEN_UP: ("new", "original", {"ack"}),
    Packet.FOLLOWED: ("established", "original", {"ack"}),
    Packet.ANSWER: ("established", "reply", {"syn", "ack"}),
    Packet.UNASKED: ("new", "original", {"syn", "ack"}),
    Packet.TURNED: ("established", "original", {"ack"}),
    Packet.INVALID: ("invalid", "original", {"fin", "syn"}),
}
"""State and direction by conntrack, and flags of TCP."""


def _fields(
    packet: Packet, sender: IPv4Address, receiver: IPv4Address, protocol: Protocol, port: int
) -> dict[str, Any]:
    state, direction, flags = _STATES[packet]
    if packet is Packet.TAKEN_UP and protocol is Protocol.UDP:
        state = "invalid"  # UDP has no opening packet: each first one is
    ports = {"dport": CLIENT_PORT, "sport": port} if packet in BACK else {"dport": port, "sport": CLIENT_PORT}
    fields: dict[str, Any] = {
        **{"ip saddr": str(sender), "ip daddr": str(receiver), "meta l4proto": protocol.value, "meta nfproto": "ipv4"},
        **{f"{layer} {name}": number for layer in (protocol.value, "th") for name, number in ports.items()},
        **{"ct state": state, "ct direction": direction},
    }
    return {**fields, "tcp flags": frozenset(flags)} if protocol is Protocol.TCP else fields
