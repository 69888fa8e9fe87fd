# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a packet did not pass a bridge, and why one did not cross an FW-VM."""

from __future__ import annotations

from collections.abc import Mapping

from vinci.cli.decision import Decision, Record, UnexplainedError, gone, ground
from vinci.model.ethertypes import ethertype_text
from vinci.model.labels import Lattice
from vinci.model.load import Declaration
from vinci.model.problems import ModelPath
from vinci.model.services import resolve_service, service_name
from vinci.plan.bridge_filter import DropReason
from vinci.plan.directory import Card, Directory
from vinci.plan.firewall_rules import FlowDenial
from vinci.plan.types import VmKind
from vinci.policy.explain import Explanation, Ground, QuestionError, explain_connection

# -- bridges ---------------------------------------------------------------------------------------------------------

_RULES: Mapping[DropReason, tuple[str, str]] = {
    DropReason.UNKNOWN_PORT: ("a port that no rule knows passes nothing", "declare a VM there"),
    DropReason.QUARANTINED: ("a VM in quarantine passes nothing", "an administrator ends the quarantine"),
    DropReason.VLAN: ("VLAN-tagged frames do not pass", "send untagged frames"),
    DropReason.ROUTER_ADVERTISEMENT: ("nobody announces itself as a router", "nothing: routes are given by the plan"),
    DropReason.IPV6: ("IPv6 does not pass", "use IPv4"),
    DropReason.ETHERTYPE: (
        "only IPv4, ARP and the ethertypes that the port's community declares pass",
        "use IPv4, or declare the ethertype, if a file can",
    ),
    DropReason.SPOOFED_MAC: ("a port sends from its own MAC address only", "use the card as it is"),
    DropReason.SPOOFED_ARP: ("a port claims its own addresses only", "use the assigned address"),
    DropReason.DHCP: ("addresses are assigned by the plan: no DHCP", "use the assigned address"),
    DropReason.SPOOFED_IP: ("a port sends from its own IP address only", "use the assigned address"),
    DropReason.BROADCAST: ("no broadcast but ARP passes", "address one VM"),
    DropReason.REDIRECT: ("no ICMP redirect passes", "nothing: routes are given by the plan"),
    DropReason.NOT_A_PEER: ("frames pass between declared pairs only", "declare a flow, a share or `peers: all`"),
}
_IDENTITY = {DropReason.SPOOFED_MAC, DropReason.SPOOFED_ARP, DropReason.SPOOFED_IP, DropReason.DHCP}


def explain_packet(declaration: Declaration, record: Record) -> Decision:
    """Why a bridge let a packet not pass (`packet-dropped`).

    Raises:
        UnexplainedError: the reason is none that a bridge gives.
    """
    if record.get("reason") is None:
        return _lost(record)
    try:
        reason = DropReason(str(record.get("reason")))
    except ValueError:
        text = f"record {record.get('id')} gives no reason that is known: {str(record.get('reason'))[:64]}"
        raise UnexplainedError(text) from None
    rule, change = _RULES[reason]
    port, claimed = str(record.get("port", "?")), record.get("claimed_target")
    directory = Directory(declaration.infrastructure)
    sender = directory.card_with(port)
    grounds = []
    if sender is not None and sender.community is not None:
        path: ModelPath = ("communities", sender.community, "network")
        own = f"{sender.vm} of {sender.community} has the address {sender.address} and the MAC {sender.mac}"
        grounds.append(ground(declaration, own, path, reason in _IDENTITY))
        if reason is DropReason.QUARANTINED:
            path = ("communities", sender.community, "response")
            grounds.append(ground(declaration, "the community's declared response", path))
        if reason is DropReason.ETHERTYPE:
            grounds += _ethertypes(declaration, sender)
        if reason is DropReason.NOT_A_PEER:
            grounds += _between(declaration, directory, sender.community, claimed)
    question = f"a frame from {record.get('claimed_source') or port} to {claimed or 'others'} at {port}"
    explanation = Explanation(question, False, tuple(grounds), change)
    network = sender.bridge if sender else "the node"
    return Decision(f"bridge {network}, port {port}", f"{reason}: {rule}", explanation)


def _ethertypes(declaration: Declaration, sender: Card) -> list[Ground]:
    """What the file lets the sender exchange besides IPv4 and ARP, and with whom."""
    name = str(sender.community)
    if sender.kind is not VmKind.APP:
        text = f"{sender.vm} is no APP-VM: nothing but IPv4 and ARP passes to it or from it"
        return [ground(declaration, text, ("communities", name, "ethertypes"))]
    community = declaration.infrastructure.communities[name]
    listed = ", ".join(map(ethertype_text, community.ethertypes)) or "no ethertype"
    peers = community.app_vms.peers
    return [
        ground(declaration, f"{name} declares {listed}", ("communities", name, "ethertypes")),
        ground(declaration, f"for its APP-VMs, where peers is {peers}", ("communities", name, "app_vms", "peers")),
    ]


def _lost(record: Record) -> Decision:
    """The kernel's log of packets was full: it tells how many records it had no room for, and not which."""
    explanation = gone(
        "each of these packets has a record",
        str(record.get("message", "records of dropped packets were lost")),
        "ask the source to stop: records are lost only where there are very many",
    )
    return Decision(
        "the bridges' log of packets", "lost: what these records tell of was dropped all the same", explanation
    )


def _between(declaration: Declaration, directory: Directory, own: str, claimed: object) -> list[Ground]:
    """What the file permits between the sender's community and the one it wanted to reach."""
    infrastructure = declaration.infrastructure
    target = directory.card_at(claimed)
    if target is None:
        return [_nobody(declaration, directory, claimed)]
    if target.community is None:
        text = f"{target.vm} serves {own} only at its own address in the network of {own}"
        return [ground(declaration, text, ("file_servers", target.vm))]
    if target.community == own:
        peers = infrastructure.communities[own].app_vms.peers
        path: ModelPath = ("communities", own, "app_vms", "peers")
        return [ground(declaration, f"{target.vm} is in the same network, where peers is {peers}", path)]
    resolve = Lattice(infrastructure.labels).resolve
    labels = [
        ground(declaration, f"{name} has the label {resolve(entry.label).text}", ("communities", name, "label"), False)
        for name in (own, target.community)
        for entry in (infrastructure.communities[name],)
    ]
    flows = [
        (number, flow)
        for number, flow in enumerate(infrastructure.flows)
        if {flow.source, flow.to} == {own, target.community}
    ]
    if not flows:
        text = f"no flow is declared between {own} and {target.community}, where {target.vm} is"
        return [*labels, ground(declaration, text, ("flows",))]
    declared = [
        ground(
            declaration,
            f"declared: {flow.source} sends requests to "
            f"{service_name(infrastructure, resolve_service(infrastructure, flow.service))} of {flow.to}",
            ("flows", number),
        )
        for number, flow in flows
    ]
    return [*labels, *declared]


def _nobody(declaration: Declaration, directory: Directory, claimed: object) -> Ground:
    network = directory.community_at(claimed)
    text = f"{claimed} is no VM's address" + (f", though in the network of {network}" if network else "")
    return ground(declaration, text, ("communities", network) if network else None)


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


def explain_crossing(declaration: Declaration, record: Record) -> Decision:
    """Why an FW-VM let a packet not cross (`flow-denied`).

    Raises:
        UnexplainedError: the reason is none that an FW-VM gives.
    """
    reason, firewall = str(record.get("reason")), str(record.get("firewall", "?"))
    if reason not in _CROSSING:
        raise UnexplainedError(f"record {record.get('id')} gives no reason that is known: {reason[:64]}")
    rule, change = _CROSSING[reason]
    directory = Directory(declaration.infrastructure)
    sender, target = (directory.card_at(record.get(key)) for key in ("claimed_source", "claimed_target"))
    service = f"{str(record.get('protocol', '?')).lower()}/{record.get('target_port', '-')}"
    question = f"{record.get('claimed_source', '?')} -> {record.get('claimed_target', '?')} {service}"
    grounds = [
        each for key in ("claimed_source", "claimed_target") for each in _end(declaration, directory, record.get(key))
    ]
    answer = _declared(declaration, sender, target, service)
    if answer is not None:
        grounds += answer.grounds
        if reason == FlowDenial.NOT_DECLARED:
            rule, change = _why_all_the_same(answer, rule), answer.change if not answer.allowed else change
    if not any(each.decides for each in grounds):
        grounds.append(Ground(rule, None, True))
    explanation = Explanation(question, False, tuple(grounds), change)
    return Decision(f"nftables of FW-VM {firewall}, {_CHAINS.get(reason, 'forward')}", f"{reason}: {rule}", explanation)


def _declared(declaration: Declaration, sender: Card | None, target: Card | None, service: str) -> Explanation | None:
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


def _end(declaration: Declaration, directory: Directory, claimed: object) -> list[Ground]:
    """Whose address one end claims."""
    if claimed is None:
        return []
    card = directory.card_at(claimed)
    if card is None or card.community is None:
        return [_nobody(declaration, directory, claimed)]
    text = f"{claimed} is {card.vm} of {card.community}"
    return [ground(declaration, text, ("communities", card.community), decides=False)]
