# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules around the gateways of one FW-VM: who gets to one, and whom it may reach.

A connection of an inspected flow is led to the flow's gateway instead of being forwarded: there is no rule by which it
could cross otherwise, so where no gateway listens the flow is closed. Each gateway runs as a user of its own, known by
UID, who may open connections to the flow's targets and to nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vinci.model.infrastructure import Protocol
from vinci.plan.nft import ACCEPT, COUNT, Command, Statement, Table, match, meta, more_connections_than, one_of, payload
from vinci.plan.types import FlowRule

CONNECTIONS_EACH = 16
"""Connections that one client may have with one gateway, half-open ones too; the gateway serves fewer at once."""

_DNAT_PRIORITY = -100
_STATE, _DIRECTION = {"ct": {"key": "state"}}, {"ct": {"key": "direction"}}
_OPENING = match({"&": [payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}, "syn")
_NEW = (match(_STATE, "new"), _OPENING)
_ESTABLISHED = match(_STATE, "established")
_REPLY = match(_DIRECTION, "reply")


@dataclass(frozen=True, slots=True)
class GatewayRules:
    """Rules of all gateways of one FW-VM, for the hooks in which they belong."""

    redirect: list[Command]
    input: list[Command]
    output: list[Command]


def gateway_rules(table: Table, flows: Iterable[FlowRule], inner: str, outer: str, too_many: Statement) -> GatewayRules:
    """The rules for those of an FW-VM's inbound flows that are inspected.

    Args:
        table: the FW-VM's table.
        flows: its inbound flows.
        inner: the card at the community's network, where targets are.
        outer: the card at which clients come in.
        too_many: what becomes of a client's connection beyond `CONNECTIONS_EACH`.

    Raises ValueError for an inspected flow that is not TCP.
    """
    rules = GatewayRules([], [], [])
    for flow in flows:
        if flow.gateway is None:
            continue
        if flow.protocol is not Protocol.TCP:
            raise ValueError(f"flow {flow.source} -> {flow.to} port {flow.port}: gateways need tcp")
        _add(rules, table, flow, flow.gateway.number, inner, outer, too_many)
    if rules.redirect:
        rules.redirect.insert(0, table.nat_chain("redirect", "prerouting", _DNAT_PRIORITY))
    return rules


def _add(
    rules: GatewayRules, table: Table, flow: FlowRule, number: int, inner: str, outer: str, too_many: Statement
) -> None:
    sources, targets = ([str(address) for address in each] for each in (flow.source_addresses, flow.to_addresses))
    saddr, daddr = payload("ip", "saddr"), payload("ip", "daddr")
    dport, sport = payload("tcp", "dport"), payload("tcp", "sport")
    from_client = (match(meta("iifname"), outer), one_of(saddr, sources))
    meant = (one_of(_original("ip daddr"), targets), match(_original("proto-dst"), flow.port))
    rules.redirect.append(
        table.rule(
            "redirect", *from_client, one_of(daddr, targets), match(dport, flow.port), {"redirect": {"port": number}}
        )
    )
    # Who addresses the FW-VM itself was not led here, and gets to no gateway. What most packets are comes first.
    arriving = (*from_client, match(dport, number), *meant)
    counted = f"connections_{number}"
    rules.input.extend(
        [
            table.set(counted, ("ipv4_addr",), size=65_535),
            table.rule("input", *arriving, _ESTABLISHED, COUNT, ACCEPT),
            table.rule(
                "input",
                match(meta("iifname"), inner),
                one_of(saddr, targets),
                match(sport, flow.port),
                _ESTABLISHED,
                _REPLY,
                COUNT,
                ACCEPT,
            ),
            table.rule("input", *arriving, *_NEW, more_connections_than(CONNECTIONS_EACH, saddr, counted), too_many),
            table.rule("input", *arriving, *_NEW, COUNT, ACCEPT),
        ]
    )
    to_target = (match(meta("oifname"), inner), one_of(daddr, targets), match(dport, flow.port))
    rules.output.extend(
        [
            # Only the gateway's user can have opened it: the last packets of a connection belong to nobody any more.
            table.rule("output", *to_target, _ESTABLISHED, COUNT, ACCEPT),
            table.rule(
                "output",
                match(meta("oifname"), outer),
                one_of(daddr, sources),
                match(sport, number),
                *meant,
                _ESTABLISHED,
                _REPLY,
                COUNT,
                ACCEPT,
            ),
            table.rule("output", match(meta("skuid"), number), *to_target, *_NEW, COUNT, ACCEPT),
        ]
    )


def _original(key: str) -> dict[str, object]:
    """What the client's first packet said, before it was led elsewhere."""
    return {"ct": {"key": key, "dir": "original"}}
