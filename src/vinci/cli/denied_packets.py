# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a packet did not pass a bridge, and why a packet or a request did not cross an FW-VM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from vinci.cli.denied import Denial, NotADenialError, Record, cards, ground
from vinci.model.load import Declaration
from vinci.model.problems import ModelPath
from vinci.model.services import resolve_service
from vinci.plan.bridge_filter import DropReason
from vinci.plan.compile import compile_plan
from vinci.plan.firewall_rules import FlowDenial
from vinci.plan.types import Plan, PlannedCommunity, Vm, VmKind
from vinci.policy.explain import Explanation, Ground, QuestionError, explain_connection
from vinci.policy.flows import hop_text
from vinci.policy.graph import HopKind, PlaceKind, flow_graph

# -- bridges ---------------------------------------------------------------------------------------------------------

_RULES: Mapping[DropReason, tuple[str, str]] = {
    DropReason.UNKNOWN_PORT: ("a port that no rule knows passes nothing", "declare a VM there"),
    DropReason.QUARANTINED: ("a VM in quarantine passes nothing", "an administrator ends the quarantine"),
    DropReason.VLAN: ("VLAN-tagged frames do not pass", "send untagged frames"),
    DropReason.ROUTER_ADVERTISEMENT: ("nobody announces itself as a router", "nothing: routes are given by the plan"),
    DropReason.IPV6: ("IPv6 does not pass", "use IPv4"),
    DropReason.ETHERTYPE: ("only IPv4 and ARP pass", "use IPv4"),
    DropReason.SPOOFED_MAC: ("a port sends from its own MAC address only", "use the card as it is"),
    DropReason.SPOOFED_ARP: ("a port claims its own addresses only", "use the assigned address"),
    DropReason.DHCP: ("addresses are assigned by the plan: no DHCP", "use the assigned address"),
    DropReason.SPOOFED_IP: ("a port sends from its own IP address only", "use the assigned address"),
    DropReason.BROADCAST: ("no broadcast but ARP passes", "address one VM"),
    DropReason.REDIRECT: ("no ICMP redirect passes", "nothing: routes are given by the plan"),
    DropReason.NOT_A_PEER: ("frames pass between declared pairs only", "declare a flow, a share or `peers: all`"),
}
_IDENTITY = {DropReason.SPOOFED_MAC, DropReason.SPOOFED_ARP, DropReason.SPOOFED_IP, DropReason.DHCP}


def explain_packet(declaration: Declaration, record: Record) -> Denial:
    try:
        reason = DropReason(str(record.get("reason")))
    except ValueError:
        raise NotADenialError(f"record {record.get('id')} tells of lost records, not of one packet") from None
    rule, change = _RULES[reason]
    port, claimed = str(record.get("port", "?")), record.get("claimed_target")
    plan = compile_plan(declaration.infrastructure)
    sender = next(((vm, nic) for vm, nic in cards(plan) if nic.tap == port), None)
    grounds = []
    if sender is not None and sender[0].community is not None:
        vm, nic = sender
        path: ModelPath = ("communities", str(vm.community), "network")
        own = f"{vm.name} of {vm.community} has the address {nic.address} and the MAC {nic.mac}"
        grounds.append(ground(declaration, own, path, reason in _IDENTITY))
        if reason is DropReason.QUARANTINED:
            path = ("communities", str(vm.community), "response")
            grounds.append(ground(declaration, "the community's declared response", path))
        if reason is DropReason.NOT_A_PEER:
            grounds += _between(declaration, plan, vm, claimed)
    question = f"a frame from {record.get('claimed_source') or port} to {claimed or 'others'} at {port}"
    explanation = Explanation(question, False, tuple(grounds), change)
    network = sender[1].bridge if sender else "the node"
    return Denial(f"bridge {network}, port {port}", f"{reason}: {rule}", explanation)


def _between(declaration: Declaration, plan: Plan, vm: Vm, claimed: object) -> list[Ground]:
    """What the file permits between the sender and the one it wanted to reach."""
    infrastructure, own = declaration.infrastructure, str(vm.community)
    target = next((other for other, nic in cards(plan) if str(nic.address) == claimed), None)
    if target is None:
        network = next((c.name for c in plan.communities if _is_in(claimed, c)), None)
        text = f"{claimed} is no VM's address" + (f", though in the network of {network}" if network else "")
        return [ground(declaration, text, ("communities", network) if network else None)]
    if target.community is None:
        text = f"{target.name} serves {own} only at its own address in the network of {own}"
        return [ground(declaration, text, ("file_servers", target.name))]
    if target.community == own:
        peers = infrastructure.communities[own].app_vms.peers
        path: ModelPath = ("communities", own, "app_vms", "peers")
        return [ground(declaration, f"{target.name} is in the same network, where peers is {peers}", path)]
    hops = [
        hop
        for hop in flow_graph(infrastructure).hops
        if hop.kind is HopKind.REQUEST and {hop.source.name, hop.target.name} == {own, target.community}
    ]
    if not hops:
        text = f"no flow is declared between {own} and {target.community}, where {target.name} is"
        return [ground(declaration, text, ("flows",))]
    assert all(hop.source.kind is PlaceKind.COMMUNITY for hop in hops)
    return [ground(declaration, f"declared: {hop_text(infrastructure, hop)}", hop.path) for hop in hops]


def _is_in(claimed: object, community: PlannedCommunity) -> bool:
    try:
        return IPv4Address(str(claimed)) in community.network
    except ValueError:
        return False


# -- FW-VMs ----------------------------------------------------------------------------------------------------------

_CROSSING: Mapping[str, tuple[str, str]] = {
    FlowDenial.NOT_DECLARED: ("only packets of declared flows, and their answers, cross", "declare a flow"),
    FlowDenial.SPOOFED: ("each side is known by its addresses", "use the assigned address"),
    FlowDenial.INVALID: ("a packet that belongs to no connection does not cross", "open the connection anew"),
    FlowDenial.TO_FIREWALL: ("nobody talks to an FW-VM itself", "address a VM of the other community"),
    FlowDenial.FROM_FIREWALL: ("an FW-VM opens no connections", "nothing: an FW-VM that does was changed"),
    FlowDenial.CONNECTIONS: ("a gateway serves so many connections of one client at a time", "close some of them"),
}
_CHAINS = {
    FlowDenial.TO_FIREWALL.value: "input",
    FlowDenial.FROM_FIREWALL.value: "output",
    FlowDenial.CONNECTIONS.value: "input",
}
"""Where it is not `forward`."""


def explain_crossing(declaration: Declaration, record: Record) -> Denial:
    """Why an FW-VM let a packet not cross (`flow-denied`).

    Raises:
        NotADenialError: the reason is none that an FW-VM gives.
    """
    reason, firewall = str(record.get("reason")), str(record.get("firewall", "?"))
    if reason not in _CROSSING:
        raise NotADenialError(f"record {record.get('id')} gives no reason that is known: {reason[:64]}")
    rule, change = _CROSSING[reason]
    plan = compile_plan(declaration.infrastructure)
    sender, target = (_vm_at(plan, record.get(key)) for key in ("claimed_source", "claimed_target"))
    service = f"{str(record.get('protocol', '?')).lower()}/{record.get('target_port', '-')}"
    question = f"{record.get('claimed_source', '?')} -> {record.get('claimed_target', '?')} {service}"
    grounds = [
        each for key in ("claimed_source", "claimed_target") for each in _end(declaration, plan, record.get(key))
    ]
    answer = _declared(declaration, sender, target, service)
    if answer is not None:
        grounds += answer.grounds
        if reason == FlowDenial.NOT_DECLARED:
            rule, change = _why_all_the_same(answer, rule), answer.change if not answer.allowed else change
    if not any(each.decides for each in grounds):
        grounds.append(Ground(rule, None, True))
    explanation = Explanation(question, False, tuple(grounds), change)
    return Denial(f"nftables of FW-VM {firewall}, {_CHAINS.get(reason, 'forward')}", f"{reason}: {rule}", explanation)


def _declared(declaration: Declaration, sender: Vm | None, target: Vm | None, service: str) -> Explanation | None:
    """What the file says of a connection between two APP-VMs; None where it says nothing."""
    if sender is None or target is None or VmKind.APP is not sender.kind or VmKind.APP is not target.kind:
        return None
    try:
        return explain_connection(
            declaration.infrastructure, declaration.source, str(sender.community), str(target.community), service
        )
    except QuestionError:  # a protocol without ports, or a port that does not exist
        return None


def _why_all_the_same(answer: Explanation, rule: str) -> str:
    """A flow that is declared now was not declared then, or the packet was none that it begins with."""
    if not answer.allowed:
        return rule
    return f"{rule}; the flow is declared now: it was not then, or the packet opened no connection"


def _end(declaration: Declaration, plan: Plan, claimed: object) -> list[Ground]:
    """Whose address one end claims."""
    vm = _vm_at(plan, claimed)
    if vm is not None and vm.community is not None:
        path: ModelPath = ("communities", vm.community)
        return [ground(declaration, f"{claimed} is {vm.name} of {vm.community}", path, decides=False)]
    network = next((each.name for each in plan.communities if _is_in(claimed, each)), None)
    if network is not None:
        text = f"{claimed} is no VM's address, though in the network of {network}"
        return [ground(declaration, text, ("communities", network))]
    return [ground(declaration, f"{claimed} is no VM's address", None)] if claimed is not None else []


def _vm_at(plan: Plan, claimed: object) -> Vm | None:
    return next((vm for vm, nic in cards(plan) if str(nic.address) == claimed), None)


# -- gateways --------------------------------------------------------------------------------------------------------


def explain_request(declaration: Declaration, record: Record) -> Denial:
    """Why a gateway let a request not through (`request-denied`).

    Raises:
        NotADenialError: the declaration in force has no such gateway.
    """
    number, reason = record.get("flow_number"), str(record.get("reason", "?"))
    flows = declaration.infrastructure.flows
    flow = flows[number] if isinstance(number, int) and 0 <= number < len(flows) else None
    if flow is None or flow.inspection is None:
        raise NotADenialError(f"record {record.get('id')} tells of a gateway that is not declared any more")
    service = resolve_service(declaration.infrastructure, flow.service)
    answer = explain_connection(
        declaration.infrastructure, declaration.source, flow.source, flow.to, f"{service.protocol}/{service.port}"
    )
    # The flow is permitted; what is inspected decides, and it is told last.
    grounds = tuple(replace(each, decides=each is answer.grounds[-1]) for each in answer.grounds)
    question = f"{flow.source} asks {flow.to}: {record.get('request') or 'no request'}"
    change = "name it under `inspection` of the flow, if it is meant"
    place = f"the {flow.inspection.gateway} gateway on FW-VM {record.get('firewall', '?')}"
    rule = f"{reason}: only requests that the declaration names pass"
    return Denial(place, rule, Explanation(question, False, grounds, change))
