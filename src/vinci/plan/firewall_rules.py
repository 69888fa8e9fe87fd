# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules inside one FW-VM, as nftables JSON: what may leave its community's VCN and what may enter it.

A flow crosses two FW-VMs, that of its source (`outbound` there) and that of its target (`inbound` there): each
permits it by its own rules or it stops. A connection is followed by conntrack; a one-way flow is not followed at
all, so that nothing counts as its answer. An inspected flow is not forwarded by its target's FW-VM but led to a
gateway there (`vinci.plan.gateway_rules`). Nothing else is addressed to an FW-VM, which is managed through its
virtio-serial port. eth0 is the card on the VCN, eth1 the one on the transit network.
"""

from __future__ import annotations

from enum import StrEnum

from vinci.model.infrastructure import Protocol
from vinci.plan.gateway_rules import GatewayRules, gateway_rules
from vinci.plan.nft import (
    ACCEPT,
    COUNT,
    DROP,
    Command,
    Ruleset,
    Statement,
    Table,
    goto,
    match,
    meta,
    one_of,
    payload,
    prefix,
    rate_each,
)
from vinci.plan.types import Firewall, FlowRule

TABLE = Table("inet", "vinci")
INNER, TRANSIT_SIDE = "eth0", "eth1"
LOG_PREFIX = "vinci-fw"
"""Each record in the FW-VM's kernel log starts with this word, then the reason."""

FILTER, BEFORE_CONNTRACK = 0, -300
RECORDS_PER_SECOND, RECORDS_BURST = 5, 20
"""Of each source and reason."""
RECORDED_SOURCES = 4096
"""Sources at once; what more there are is dropped without a record."""


class FlowDenial(StrEnum):
    """Why a packet did not cross. The text follows `LOG_PREFIX` in the kernel log."""

    SPOOFED = "spoofed"
    INVALID = "invalid"
    NOT_DECLARED = "not-declared"
    TO_FIREWALL = "to-firewall"
    CONNECTIONS = "too-many-connections"
    FROM_FIREWALL = "from-firewall"


_STATE = {"ct": {"key": "state"}}
_ICMP_ERRORS = ("destination-unreachable", "time-exceeded", "parameter-problem")
_OPENING = match({"&": [payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}, "syn")


def firewall_ruleset(firewall: Firewall) -> Ruleset:
    """The transaction that puts one FW-VM's rules in force in place of those before.

    Raises ValueError for a one-way flow over TCP, which cannot exist: its sender needs answers.
    """
    for flow in (*firewall.outbound, *firewall.inbound):
        if flow.one_way and flow.protocol is not Protocol.UDP:
            raise ValueError(f"flow {flow.source} -> {flow.to} port {flow.port}: one-way needs udp")
    gateways = gateway_rules(TABLE, firewall.inbound, INNER, TRANSIT_SIDE, _deny(FlowDenial.CONNECTIONS))
    return {
        "nftables": [
            *TABLE.fresh(),
            *(command for reason in FlowDenial for command in _denial(reason)),
            *gateways.redirect,
            *_own_traffic(gateways),
            *_untracked(firewall),
            *_crossing(firewall),
        ]
    }


def _denial(reason: FlowDenial) -> list[Command]:
    """The chain in which dropped packets end: counted, and some of each source recorded.

    A source's address is its own, the bridges see to that: no flood hides what another VM does.
    """
    limit = {"limit": {"rate": RECORDS_PER_SECOND, "burst": RECORDS_BURST, "per": "second"}}
    log = {"log": {"prefix": f"{LOG_PREFIX} {reason} ", "level": "info"}}
    chain = _chain(reason)
    recorded = f"recorded_{reason.name.lower()}"
    return [
        TABLE.chain(chain),
        TABLE.set(recorded, ("ipv4_addr",), flags=["timeout"], timeout=60, size=RECORDED_SOURCES),
        TABLE.rule(chain, rate_each(limit, payload("ip", "saddr"), recorded), log),
        TABLE.rule(chain, match(meta("nfproto"), "ipv4", "!="), limit, log),
        TABLE.rule(chain, COUNT, DROP),
    ]


def _chain(reason: FlowDenial) -> str:
    return f"deny_{reason.name.lower()}"


def _deny(reason: FlowDenial) -> Statement:
    return goto(_chain(reason))


def _own_traffic(gateways: GatewayRules) -> list[Command]:
    """Nobody talks to the FW-VM but to its gateways. It says what they say, and of a permitted flow's packet that it
    could not be delivered."""
    related_error = (match(_STATE, "related"), one_of(payload("icmp", "type"), _ICMP_ERRORS))
    rule = TABLE.rule
    return [
        TABLE.base_chain("input", FILTER),
        rule("input", match(meta("iifname"), "lo"), ACCEPT),
        *gateways.input,
        rule("input", _deny(FlowDenial.TO_FIREWALL)),
        TABLE.base_chain("output", FILTER),
        rule("output", match(meta("oifname"), "lo"), ACCEPT),
        rule("output", *related_error, ACCEPT),
        *gateways.output,
        rule("output", _deny(FlowDenial.FROM_FIREWALL)),
    ]


def _untracked(firewall: Firewall) -> list[Command]:
    """One-way flows stay out of conntrack: without an entry there, nothing that comes back is an answer."""
    commands = [
        {"add": {"chain": {"family": TABLE.family, "table": TABLE.name, "name": "one_way", "type": "filter",
                           "hook": "prerouting", "prio": BEFORE_CONNTRACK, "policy": "accept"}}}
    ]  # fmt: skip
    for inside, flows in ((INNER, firewall.outbound), (TRANSIT_SIDE, firewall.inbound)):
        for flow in flows:
            if flow.one_way:
                came_from = match(meta("iifname"), inside)
                commands.append(TABLE.rule("one_way", came_from, *_flow(flow), {"notrack": None}))
    return commands


def _crossing(firewall: Firewall) -> list[Command]:
    network = prefix(firewall.network)
    source, to = payload("ip", "saddr"), payload("ip", "daddr")
    ipv4 = match(meta("nfproto"), "ipv4")
    rule = TABLE.rule
    outward = (match(meta("iifname"), INNER), match(meta("oifname"), TRANSIT_SIDE))
    inward = (match(meta("iifname"), TRANSIT_SIDE), match(meta("oifname"), INNER))
    return [
        TABLE.base_chain("forward", FILTER),
        rule("forward", match(meta("nfproto"), "ipv4", "!="), _deny(FlowDenial.NOT_DECLARED)),
        # Each side is known by its addresses: no packet claims to come from the other one.
        rule("forward", match(meta("iifname"), INNER), ipv4, match(source, network, "!="), _deny(FlowDenial.SPOOFED)),
        rule("forward", match(meta("iifname"), TRANSIT_SIDE), ipv4, match(source, network), _deny(FlowDenial.SPOOFED)),
        rule(
            "forward", match(meta("iifname"), TRANSIT_SIDE), ipv4, match(to, network, "!="), _deny(FlowDenial.SPOOFED)
        ),
        rule("forward", match(_STATE, "invalid"), _deny(FlowDenial.INVALID)),
        # An error message about a followed connection; no other ICMP crosses.
        rule("forward", match(_STATE, "related"), one_of(payload("icmp", "type"), _ICMP_ERRORS), ACCEPT),
        *(command for flow in firewall.outbound for command in _permit(flow, outward, inward)),
        *(command for flow in firewall.inbound if flow.gateway is None for command in _permit(flow, inward, outward)),
        rule("forward", _deny(FlowDenial.NOT_DECLARED)),
    ]


def _permit(flow: FlowRule, way: tuple[Statement, ...], back: tuple[Statement, ...]) -> list[Command]:
    """Packets of a flow, and their answers.

    No rule accepts `established` as such: a flow that is no longer declared ends with the packet after the
    replacement of the rules, though conntrack still knows its connections.
    """
    there = (*way, *_flow(flow))
    if flow.one_way:
        return [TABLE.rule("forward", *there, match(_STATE, "untracked"), COUNT, ACCEPT)]
    # A TCP connection opens with SYN alone: conntrack would take up a running one as new.
    opening = (match(_STATE, "new"), *((_OPENING,) if flow.protocol is Protocol.TCP else ()))
    followed = match(_STATE, "established")
    answer = match({"ct": {"key": "direction"}}, "reply")
    return [
        TABLE.rule("forward", *there, *opening, COUNT, ACCEPT),
        TABLE.rule("forward", *there, followed, COUNT, ACCEPT),
        TABLE.rule("forward", *back, *_answers(flow), followed, answer, COUNT, ACCEPT),
    ]


def _flow(flow: FlowRule) -> tuple[Statement, ...]:
    return (
        one_of(payload("ip", "saddr"), [str(address) for address in flow.source_addresses]),
        one_of(payload("ip", "daddr"), [str(address) for address in flow.to_addresses]),
        match(payload(flow.protocol.value, "dport"), flow.port),
    )


def _answers(flow: FlowRule) -> tuple[Statement, ...]:
    return (
        one_of(payload("ip", "saddr"), [str(address) for address in flow.to_addresses]),
        one_of(payload("ip", "daddr"), [str(address) for address in flow.source_addresses]),
        match(payload(flow.protocol.value, "sport"), flow.port),
    )
