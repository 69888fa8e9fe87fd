# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of the bridges' rules that is the same whatever the ports: chains, the sets they ask, reasons of drops.

`vinci.plan.bridge_rules` fills the sets. docs/explanation/network.md tells what each rule is there for.
"""

from __future__ import annotations

from enum import StrEnum

from vinci.plan.nft import (
    ACCEPT,
    COUNT,
    DROP,
    Command,
    Json,
    Statement,
    Table,
    concat,
    goto,
    in_set,
    jump,
    match,
    meta,
    one_of,
    payload,
    prefix,
    set_mark,
    vmap,
)

TABLE = Table("bridge", "vinci")
NFLOG_GROUP = 86
"""The netlink group in the node's namespace on which dropped frames are recorded."""

UNKNOWN_PORT_NAME = "?"
"""Stands for a port that no rule knows."""

LOGGED_BYTES = 96
RECORDS_PER_SECOND = 5
RECORDS_BURST = 20
"""Bound on records per port and reason: a flood of one kind on one port hides nothing else."""


class DropReason(StrEnum):
    """Why a frame was dropped. The text is what the audit shows."""

    UNKNOWN_PORT = "unknown-port"
    QUARANTINED = "quarantined"
    VLAN = "vlan"
    ROUTER_ADVERTISEMENT = "ra"
    IPV6 = "ipv6"
    ETHERTYPE = "ethertype"
    SPOOFED_MAC = "spoofed-mac"
    SPOOFED_ARP = "spoofed-arp"
    DHCP = "dhcp"
    SPOOFED_IP = "spoofed-ip"
    BROADCAST = "broadcast"
    REDIRECT = "icmp-redirect"
    NOT_A_PEER = "not-a-peer"


REASON_MARKS = {reason: number for number, reason in enumerate(DropReason, start=1)}
"""The packet mark that carries the reason to the record: one record rule per port serves all reasons."""

IN, OUT = meta("iifgroup"), meta("oifgroup")
ETHER_TYPE = payload("ether", "type")
ETHER_SOURCE, ETHER_TO = payload("ether", "saddr"), payload("ether", "daddr")
IP_SOURCE, IP_TO = payload("ip", "saddr"), payload("ip", "daddr")
ARP_SOURCE_MAC, ARP_SOURCE_IP = payload("arp", "saddr ether"), payload("arp", "saddr ip")
ARP_ASKED = payload("arp", "daddr ip")
IS_IP, IS_ARP = match(ETHER_TYPE, "ip"), match(ETHER_TYPE, "arp")
IS_GROUP = match({"&": [ETHER_TO, "01:00:00:00:00:00"]}, "00:00:00:00:00:00", "!=")
DHCP_PORTS = {"range": [67, 68]}
ARP_FOR_IPV4 = (
    match(payload("arp", "htype"), 1),
    match(payload("arp", "ptype"), "ip"),
    match(payload("arp", "hlen"), 6),
    match(payload("arp", "plen"), 4),
)

SETS: dict[str, tuple[str, ...]] = {
    # in port, out port, source MAC, source IP, destination IP
    "pairs": ("devgroup", "devgroup", "ether_addr", "ipv4_addr", "ipv4_addr"),
    # ports that reach one another and are too many for a pair each: as source, and as destination
    "mesh_sources": ("devgroup", "ether_addr", "ipv4_addr"),
    "mesh_targets": ("devgroup", "ipv4_addr"),
    # pairs without the address that a router stands for: it is looked up in `routed` or `reached`
    "to_router": ("devgroup", "devgroup", "ether_addr", "ipv4_addr"),
    "from_router": ("devgroup", "devgroup", "ether_addr", "ipv4_addr"),
    "between_routers": ("devgroup", "devgroup", "ether_addr"),
    # what lies behind a router's port: as source, and as destination
    "routed": ("devgroup", "ipv4_addr"),
    "reached": ("devgroup", "ipv4_addr"),
    # ethertypes besides IPv4 and ARP that a port may send to, and get from, the others of its bridge that have the same
    "ethertypes": ("devgroup", "ether_type"),
    # what each port may claim to be; of IPv4 and ARP these decide no frame's fate, only the reason that is recorded
    "macs": ("devgroup", "ether_addr"),
    "addresses": ("devgroup", "ipv4_addr"),
    "arp_claims": ("devgroup", "ether_addr", "ether_addr", "ipv4_addr"),
    # all addresses that some port has
    "known": ("ipv4_addr",),
    "quarantined": ("devgroup",),
}
INTERVALS = frozenset({"routed", "reached"})


def skeleton() -> list[Command]:
    """Commands that make the empty sets and all rules but the recorders of the ports."""
    sets = [TABLE.set(name, type_, **({"flags": ["interval"]} if name in INTERVALS else {}))
            for name, type_ in SETS.items()]  # fmt: skip
    rates = TABLE.set("record_rates", ("devgroup", "mark"), flags=["timeout"], timeout=60, size=65535)
    # A chain has to exist before a rule names it.
    return [*sets, rates, TABLE.verdict_map("recorders", "devgroup"), *_record(), *_explain(), *_content(),
            *_arp(), *_routing(), *_declared(), *_hooks()]  # fmt: skip


def _hooks() -> list[Command]:
    pair = in_set(concat(IN, OUT, ETHER_SOURCE, IP_SOURCE, IP_TO), "pairs")
    # No frame leaves its bridge, and a bridge has one mesh: two members found are members of the same.
    mesh = (in_set(concat(IN, ETHER_SOURCE, IP_SOURCE), "mesh_sources"), in_set(concat(OUT, IP_TO), "mesh_targets"))
    ordinary = (match(meta("l4proto"), "icmp", "!="), match(payload("th", "dport"), DHCP_PORTS, "!="))
    filter_priority = -200
    rule = TABLE.rule
    return [
        TABLE.base_chain("forward", filter_priority),
        # Nearly all frames end here. The port bytes of DHCP are refused for any transport, and ICMP goes on, so that
        # `content` is left to the few frames that need it.
        rule("forward", IS_IP, pair, *ordinary, ACCEPT),
        rule("forward", IS_IP, pair, goto("content")),
        rule("forward", IS_IP, *mesh, *ordinary, ACCEPT),
        rule("forward", IS_IP, *mesh, goto("content")),
        rule("forward", IS_ARP, jump("arp_pairs")),
        rule("forward", IS_IP, jump("routing")),
        rule("forward", _DECLARED, in_set(concat(OUT, ETHER_TYPE), "ethertypes"), _OWN_MAC, jump("declared")),
        # A copy of a flooded frame, at a port not its target's. Of a broadcast, `input` explains the host's copy.
        rule("forward", match(concat(OUT, ETHER_TO), "@macs", "!="), COUNT, DROP),
        rule("forward", goto("explain")),
        TABLE.base_chain("input", filter_priority),
        # A true question for somebody's address reaches the host too, and is none of its business. One for nobody's has
        # no port at which `arp_pairs` would record it.
        rule("input", IS_GROUP, IS_ARP, in_set(_arp_claim(), "arp_claims"), in_set(ARP_ASKED, "known"), COUNT, DROP),
        # The same of a multicast of a declared ethertype, which every port that may get it was sent.
        rule("input", IS_GROUP, _DECLARED, _OWN_MAC, COUNT, DROP),
        rule("input", goto("explain")),
        TABLE.base_chain("output", filter_priority),
        rule("output", COUNT, DROP),
    ]


# A frame of an ethertype that its port has declared, and one from its port's own MAC.
_DECLARED = in_set(concat(IN, ETHER_TYPE), "ethertypes")
_OWN_MAC = in_set(concat(IN, ETHER_SOURCE), "macs")


def _declared() -> list[Command]:
    """Between ports that may exchange its ethertype: a frame to the port's own MAC, or to a group of MACs."""
    name, rule = "declared", TABLE.rule
    return [
        TABLE.chain(name),
        rule(name, in_set(concat(OUT, ETHER_TO), "macs"), ACCEPT),
        rule(name, IS_GROUP, ACCEPT),
    ]


def _arp_claim() -> Json:
    return concat(IN, ETHER_SOURCE, ARP_SOURCE_MAC, ARP_SOURCE_IP)


def _arp() -> list[Command]:
    """A port asks and answers only as itself, and only its peers hear it, even where it asks everybody."""
    name, rule = "arp_pairs", TABLE.rule
    claims = in_set(_arp_claim(), "arp_claims")
    pair = (in_set(concat(IN, OUT, ARP_SOURCE_MAC, ARP_SOURCE_IP, ARP_ASKED), "pairs"),)
    mesh = (
        in_set(concat(IN, ARP_SOURCE_MAC, ARP_SOURCE_IP), "mesh_sources"),
        in_set(concat(OUT, ARP_ASKED), "mesh_targets"),
    )
    question = (match(payload("arp", "operation"), "request"),)
    unicast = match({"&": [ETHER_TO, "01:00:00:00:00:00"]}, "00:00:00:00:00:00")
    answer = (match(payload("arp", "operation"), "reply"), unicast)
    return [
        TABLE.chain(name),
        *(
            rule(name, *ARP_FOR_IPV4, *operation, claims, *peers, ACCEPT)
            for peers in (pair, mesh)
            for operation in (question, answer)
        ),
        # Asked for by somebody who is no peer: recorded where the question would have reached its target.
        rule(
            name,
            IS_GROUP,
            *ARP_FOR_IPV4,
            claims,
            in_set(concat(OUT, ARP_ASKED), "addresses"),
            *_because(DropReason.NOT_A_PEER),
        ),
    ]


def _routing() -> list[Command]:
    """Frames to and from an FW-VM that stands for other networks."""
    name, rule = "routing", TABLE.rule
    source_behind = in_set(concat(IN, IP_SOURCE), "routed")
    target_behind = in_set(concat(OUT, IP_TO), "reached")
    ports = (IN, OUT, ETHER_SOURCE)
    return [
        TABLE.chain(name),
        rule(name, in_set(concat(*ports, IP_SOURCE), "to_router"), target_behind, goto("content")),
        rule(name, in_set(concat(*ports, IP_TO), "from_router"), source_behind, goto("content")),
        rule(name, in_set(concat(*ports), "between_routers"), source_behind, target_behind, goto("content")),
    ]


def _content() -> list[Command]:
    """What even peers may not send each other."""
    name, rule = "content", TABLE.rule
    icmp_type = payload("icmp", "type")
    return [
        TABLE.chain(name),
        rule(
            name, match(meta("l4proto"), "udp"), match(payload("udp", "dport"), DHCP_PORTS), *_because(DropReason.DHCP)
        ),
        rule(
            name,
            one_of(icmp_type, ("router-advertisement", "router-solicitation")),
            *_because(DropReason.ROUTER_ADVERTISEMENT),
        ),
        rule(name, match(icmp_type, "redirect"), *_because(DropReason.REDIRECT)),
        rule(name, ACCEPT),
    ]


def _because(reason: DropReason) -> tuple[Statement, ...]:
    return (COUNT, set_mark(REASON_MARKS[reason]), goto("record"))


def _explain() -> list[Command]:
    """Finds the reason for a frame that is dropped whatever happens here; the first that fits is recorded."""
    checks: list[tuple[DropReason, tuple[Statement, ...]]] = [
        (DropReason.QUARANTINED, (in_set(IN, "quarantined"),)),
        (DropReason.QUARANTINED, (in_set(OUT, "quarantined"),)),
        (DropReason.VLAN, (one_of(ETHER_TYPE, ("8021q", "8021ad", 0x9100)),)),
        (DropReason.ROUTER_ADVERTISEMENT, (match(ETHER_TYPE, "ip6"), match(meta("l4proto"), "ipv6-icmp"),
                                           match(payload("icmpv6", "type"), "nd-router-advert"))),
        (DropReason.IPV6, (match(ETHER_TYPE, "ip6"),)),
        (DropReason.ETHERTYPE, (match(ETHER_TYPE, {"set": ["ip", "arp"]}, "!="),
                                match(concat(IN, ETHER_TYPE), "@ethertypes", "!="))),
        (DropReason.SPOOFED_MAC, (match(concat(IN, ETHER_SOURCE), "@macs", "!="),)),
        (DropReason.SPOOFED_ARP, (IS_ARP, match(_arp_claim(), "@arp_claims", "!="))),
        (DropReason.NOT_A_PEER, (IS_ARP, *ARP_FOR_IPV4,
                                 one_of(payload("arp", "operation"), ("request", "reply")))),
        (DropReason.SPOOFED_ARP, (IS_ARP,)),
        (DropReason.DHCP, (IS_IP, match(meta("l4proto"), "udp"), match(payload("udp", "dport"), DHCP_PORTS))),
        (DropReason.SPOOFED_IP, (IS_IP, match(concat(IN, IP_SOURCE), "@addresses", "!="),
                                 match(concat(IN, IP_SOURCE), "@routed", "!="))),
        (DropReason.BROADCAST, (IS_GROUP,)),
        (DropReason.BROADCAST, (IS_IP, match(IP_TO, prefix("224.0.0.0/3")))),
    ]  # fmt: skip
    rules = [TABLE.rule("explain", *statements, *_because(reason)) for reason, statements in checks]
    return [TABLE.chain("explain"), *rules, TABLE.rule("explain", *_because(DropReason.NOT_A_PEER))]


def _record() -> list[Command]:
    """Records a dropped frame, at most so many a second for each port and reason."""
    excess = {"limit": {"rate": RECORDS_PER_SECOND, "burst": RECORDS_BURST, "per": "second", "inv": True}}
    key = concat(IN, meta("mark"))
    rate = {"set": {"op": "update", "elem": key, "set": "@record_rates", "stmt": [excess]}}
    return [
        TABLE.chain("record"),
        TABLE.rule("record", rate, COUNT, DROP),
        TABLE.rule("record", vmap(IN, "recorders")),
        TABLE.rule("record", set_mark(REASON_MARKS[DropReason.UNKNOWN_PORT]), *recorded_as(UNKNOWN_PORT_NAME)),
    ]


def recorded_as(text: str) -> tuple[Statement, ...]:
    """Records a frame under a name and drops it."""
    return ({"log": {"prefix": text, "group": NFLOG_GROUP, "snaplen": LOGGED_BYTES}}, COUNT, DROP)
