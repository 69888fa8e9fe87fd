# SPDX-License-Identifier: GPL-2.0-or-later
"""What each FW-VM takes and says itself, read back and compared with the declaration.

Nobody talks to an FW-VM but the clients of its gateways, who are led there; it opens nothing but the connections of its
gateways to their targets, and says of a permitted packet that it could not be delivered. Everything else is asked here
of its rules alone, from both sides: opening packets, further ones and answers of TCP and UDP, ICMP, IPv6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import product

from vinci.model.infrastructure import Infrastructure, Protocol
from vinci.model.services import resolve_service
from vinci.plan.firewall_opinion import CLIENT_PORT, UNDECLARED_PORT
from vinci.plan.firewall_rules import INNER, TRANSIT_SIDE
from vinci.plan.odd_packets import ANSWER, FURTHER, OPENING, RELATED, TAKEN_UP, UNASKED, Fields, ipv6_packets, messages
from vinci.plan.types import Firewall, NodePlan, VmKind
from vinci.policy.readback_gateways import ReadGateway
from vinci.policy.readback_rules import RuleSet

SIDES = (INNER, TRANSIT_SIDE)
NOBODY = 65_534
"""A user who is no gateway's."""
_SERVICES = frozenset({22, 2049, UNDECLARED_PORT})
Table = Mapping[int, ReadGateway]


@dataclass(frozen=True, slots=True)
class Wall:
    """One FW-VM: its rules and its table of gateways, as they were read back."""

    firewall: Firewall
    rules: RuleSet
    gateways: Table

    @property
    def ports(self) -> list[int]:
        """The ports to try: what gateways listen on and lead to, what any machine may offer, and one that none does."""
        return sorted({*_SERVICES, *self.gateways, *(gateway.port for gateway in self.gateways.values())})

    @property
    def own(self) -> tuple[IPv4Address, IPv4Address]:
        """Its two addresses."""
        return self.firewall.inner_address, self.firewall.transit_address


def check_own_traffic(
    infrastructure: Infrastructure, node: NodePlan, rules: Mapping[str, RuleSet], gateways: Mapping[str, Table]
) -> Iterator[str]:
    """What a node's FW-VMs would take or say otherwise.

    Raises:
        ReadbackError: rules hold something that is not understood.
    """
    addresses = _addresses(node)
    for firewall in node.firewalls:
        wall = Wall(firewall, rules[firewall.vm], gateways[firewall.vm])
        faults = (_tables(infrastructure, node, wall), _led(wall, addresses), _taken(wall, addresses))
        for fault in (*faults, _opened(wall, addresses), _said(wall, addresses), _other_protocols(wall)):
            yield from (f"{firewall.vm}: {text}" for text in fault)


def _addresses(node: NodePlan) -> list[IPv4Address]:
    """The first and last address of each kind of VM in each network: the others are to rules what these are."""
    alike: dict[tuple[VmKind, str], list[IPv4Address]] = {}
    for vm in node.vms:
        for nic in vm.nics:
            alike.setdefault((vm.kind, nic.network), []).append(nic.address)
    return list(dict.fromkeys(address for group in alike.values() for address in (group[0], group[-1])))


def _tables(infrastructure: Infrastructure, node: NodePlan, wall: Wall) -> Iterator[str]:
    """Gateways that no flow declares, or that serve others than the VMs of its two communities."""
    apps: dict[str | None, frozenset[IPv4Address]] = {}
    for vm in node.vms:
        if vm.kind is VmKind.APP:
            apps[vm.community] = apps.get(vm.community, frozenset()) | {vm.nics[0].address}
    declared = Counter(
        (apps[flow.source], apps[flow.to], resolve_service(infrastructure, flow.service).port)
        for flow in infrastructure.flows
        if flow.to == wall.firewall.community and flow.inspection is not None and {flow.source, flow.to} <= apps.keys()
    )
    found = Counter((gateway.sources, gateway.targets, gateway.port) for gateway in wall.gateways.values())
    yield from (f"a gateway to tcp/{port} is declared and missing" for _, _, port in declared - found)
    yield from (f"a gateway to tcp/{port} is not declared with these ends" for _, _, port in found - declared)


def _led(wall: Wall, addresses: list[IPv4Address]) -> Iterator[str]:
    """Whose connections are led to a gateway instead of being forwarded."""
    own = [address for address in addresses if address in wall.firewall.network]
    elsewhere = [address for address in addresses if address not in wall.firewall.network][:1]
    for source, target, port, side in product(addresses, [*own, *elsewhere], wall.ports, SIDES):
        declared = next(
            (
                number
                for number, gateway in wall.gateways.items()
                if source in gateway.sources and _serves(gateway, target, port) and side == TRANSIT_SIDE
            ),
            None,
        )
        packet = _packet(source, target, Protocol.TCP, CLIENT_PORT, port) | OPENING
        led = wall.rules.led_to({**packet, "meta iifname": side})
        if led != declared:
            yield f"{source} at {side} is led to {led} for {target} tcp/{port}, declared is {declared}"


def _taken(wall: Wall, addresses: list[IPv4Address]) -> Iterator[str]:
    """Packets addressed to the FW-VM itself: answers to its gateways get in, and nothing else."""
    for source, own, port in product(addresses, wall.own, wall.ports):
        # Nobody was led here: what conntrack remembers is the FW-VM's own address.
        remembered: Fields = {"ct original ip daddr": str(own), "ct original proto-dst": port}
        for (what, fields), side in product(_packets(source, own, port), SIDES):
            declared = what == "an answer of tcp" and side == INNER and _is_target(wall, source, port)
            if wall.rules.passes("input", {**fields, **remembered, "meta iifname": side}) != declared:
                how = "does not get in" if declared else "gets in"
                yield f"{what} from {source} at {side}, port {port}, {how}"


def _opened(wall: Wall, addresses: list[IPv4Address]) -> Iterator[str]:
    """Connections of its own: those of a gateway to its targets, and no others."""
    for user, target, port in product((0, NOBODY, *wall.gateways), addresses, wall.ports):
        own = user in wall.gateways and _serves(wall.gateways[user], target, port)
        # The last packets of a connection belong to nobody any more.
        declared = {
            "an opening packet of tcp": own,
            "a further packet of tcp": _is_target(wall, target, port),
        }
        for (what, fields), side in product(_packets(wall.firewall.inner_address, target, port), SIDES):
            may = side == INNER and declared.get(what, False)
            if wall.rules.passes("output", {**fields, "meta skuid": user, "meta oifname": side}) != may:
                yield f"user {user} {'may not' if may else 'may'} send {what} to {target} at {side}, port {port}"


def _serves(gateway: ReadGateway, target: IPv4Address, port: int) -> bool:
    return target in gateway.targets and port == gateway.port


def _is_target(wall: Wall, target: IPv4Address, port: int) -> bool:
    return any(_serves(gateway, target, port) for gateway in wall.gateways.values())


def _said(wall: Wall, addresses: list[IPv4Address]) -> Iterator[str]:
    """ICMP: errors about followed connections go out, no other, and none is taken."""
    for other, own, (what, fields, is_error), side in product(addresses, wall.own, messages(), SIDES):
        sent = {**fields, "ip saddr": str(own), "ip daddr": str(other), "meta oifname": side, "meta skuid": 0}
        if wall.rules.passes("output", sent) != is_error:
            yield f"{what} to {other} at {side} " + ("is not sent" if is_error else "is sent")
        taken = {**fields, "ip saddr": str(other), "ip daddr": str(own), "meta iifname": side}
        if wall.rules.passes("input", taken):
            yield f"{what} from {other} at {side} gets in"


def _other_protocols(wall: Wall) -> Iterator[str]:
    for what, fields in ipv6_packets():
        for side in SIDES:
            if wall.rules.passes("input", {**fields, "meta iifname": side}):
                yield f"{what} at {side} gets in"
            if wall.rules.passes("output", {**fields, "meta oifname": side, "meta skuid": 0}):
                yield f"{what} at {side} is sent"


# -- packets ---------------------------------------------------------------------------------------------------------


def _packet(source: IPv4Address, target: IPv4Address, protocol: Protocol, source_port: int, port: int) -> Fields:
    return {
        **{"ip saddr": str(source), "ip daddr": str(target), "meta nfproto": "ipv4", "meta l4proto": protocol.value},
        **{f"{layer} sport": source_port for layer in (protocol.value, "th")},
        **{f"{layer} dport": port for layer in (protocol.value, "th")},
    }


def _packets(source: IPv4Address, target: IPv4Address, port: int) -> Iterator[tuple[str, Fields]]:
    """Every kind of packet of TCP and UDP from one address to another; of an answer `port` is the sender's."""
    for protocol in Protocol:
        there = _packet(source, target, protocol, CLIENT_PORT, port)
        back = _packet(source, target, protocol, port, CLIENT_PORT)
        for what, fields, state in (
            ("an opening packet", there, OPENING),
            ("a further packet", there, FURTHER),
            ("an answer", back, ANSWER),
            ("a packet of a related connection", there, RELATED),
            ("a packet of a connection that nobody opened", there, TAKEN_UP),
            ("an answer that nobody asked for", back, UNASKED),
            ("a further packet from that port", back, FURTHER),
        ):
            kept = {key: value for key, value in state.items() if protocol is Protocol.TCP or key != "tcp flags"}
            yield f"{what} of {protocol}", {**fields, **kept}
