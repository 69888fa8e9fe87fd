# SPDX-License-Identifier: GPL-2.0-or-later
"""An FW-VM's rules judged by an evaluator of their own. Conntrack's word (`ct.state`) is given by the test."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nft_evaluator import Firewall as Judge

from vinci.model.infrastructure import Protocol
from vinci.plan.firewall_rules import FlowDenial, firewall_ruleset
from vinci.plan.types import Firewall, FlowRule

OURS, THEIRS = IPv4Network("10.0.1.0/24"), IPv4Network("10.0.2.0/24")
OUR_VMS = (IPv4Address("10.0.1.10"), IPv4Address("10.0.1.11"))
THEIR_VMS = (IPv4Address("10.0.2.10"),)
ADDRESSES = ("10.0.1.10", "10.0.1.11", "10.0.1.99", "10.0.2.10", "10.0.2.99", "10.9.9.9", "10.255.0.2")
PORTS = (53, 443, 502)
INSIDE, OUTSIDE = "eth0", "eth1"

out_flow = FlowRule("ours", OURS, OUR_VMS[:1], "theirs", THEIRS, THEIR_VMS, Protocol.TCP, 443, one_way=False)
in_flow = FlowRule("theirs", THEIRS, THEIR_VMS, "ours", OURS, OUR_VMS, Protocol.UDP, 53, one_way=False)
diode = FlowRule("ours", OURS, OUR_VMS, "theirs", THEIRS, THEIR_VMS, Protocol.UDP, 502, one_way=True)


def firewall(outbound: tuple[FlowRule, ...] = (), inbound: tuple[FlowRule, ...] = ()) -> Firewall:
    return Firewall("ours-fw", "ours", OURS, IPv4Address("10.0.1.1"), IPv4Address("10.255.0.1"), outbound, inbound)


@st.composite
def firewalls(draw: st.DrawFn) -> Firewall:
    def flows(here: FlowRule, there: FlowRule) -> tuple[FlowRule, ...]:
        made = []
        for flow in draw(st.lists(st.sampled_from([here, there]), max_size=3)):
            one_way = flow.protocol is Protocol.UDP and draw(st.booleans())
            made.append(replace(flow, port=draw(st.sampled_from(PORTS)), one_way=one_way))
        return tuple(made)

    outward = replace(out_flow, protocol=Protocol.UDP)
    inward = replace(in_flow, protocol=Protocol.TCP)
    return firewall(flows(out_flow, outward), flows(in_flow, inward))


packets = st.fixed_dictionaries(
    {
        "meta.nfproto": st.just("ipv4"),
        "ether.type": st.just("ip"),
        "meta.iifname": st.sampled_from([INSIDE, OUTSIDE]),
        "meta.oifname": st.sampled_from([INSIDE, OUTSIDE]),
        "ip.saddr": st.sampled_from(ADDRESSES),
        "ip.daddr": st.sampled_from(ADDRESSES),
        "meta.l4proto": st.sampled_from(["tcp", "udp"]),
        "sport": st.sampled_from(PORTS),
        "dport": st.sampled_from(PORTS),
        "tcp.flags": st.sampled_from([("syn",), ("ack",), ("syn", "ack"), ("rst",)]),
        "ct.state": st.sampled_from(["new", "established", "invalid"]),
        "ct.direction": st.sampled_from(["original", "reply"]),
    }
).map(lambda p: {**p, f"{p['meta.l4proto']}.dport": p["dport"], f"{p['meta.l4proto']}.sport": p["sport"]})


def crosses(judge: Judge, packet: dict[str, object]) -> bool:
    """Through prerouting, where one-way flows leave conntrack, and forward."""
    state = packet["ct.state"] if judge.judge("prerouting", packet).tracked else "untracked"
    return judge.judge("forward", {**packet, "ct.state": state}).accepted


def is_permitted(wall: Firewall, p: dict[str, object]) -> bool:
    way = (p["meta.iifname"], p["meta.oifname"])
    for flows, there in ((wall.outbound, (INSIDE, OUTSIDE)), (wall.inbound, (OUTSIDE, INSIDE))):
        for flow in flows:
            if p["meta.l4proto"] != flow.protocol.value:
                continue
            ends = (IPv4Address(str(p["ip.saddr"])), IPv4Address(str(p["ip.daddr"])))
            forth = ends[0] in flow.source_addresses and ends[1] in flow.to_addresses and p["dport"] == flow.port
            back = ends[1] in flow.source_addresses and ends[0] in flow.to_addresses and p["sport"] == flow.port
            if flow.one_way:
                # conntrack never hears of it, so its word does not count
                if way == there and forth:
                    return True
                continue
            if p["ct.state"] == "invalid":
                continue
            opening = p["ct.state"] == "new" and (flow.protocol is Protocol.UDP or p["tcp.flags"] == ("syn",))
            if way == there and forth and (opening or p["ct.state"] == "established"):
                return True
            answer = p["ct.state"] == "established" and p["ct.direction"] == "reply"
            if way == there[::-1] and back and answer:
                return True
    return False


def is_one_way(wall: Firewall, p: dict[str, object]) -> bool:
    return any(
        flow.one_way
        and p["meta.l4proto"] == flow.protocol.value
        and p["dport"] == flow.port
        and p["meta.iifname"] == inside
        and IPv4Address(str(p["ip.saddr"])) in flow.source_addresses
        and IPv4Address(str(p["ip.daddr"])) in flow.to_addresses
        for flows, inside in ((wall.outbound, INSIDE), (wall.inbound, OUTSIDE))
        for flow in flows
    )


@given(firewalls(), packets)
def test_a_packet_crosses_if_and_only_if_a_flow_permits_it(wall: Firewall, packet: dict[str, object]) -> None:
    known = {**packet, "ct.state": "untracked"} if is_one_way(wall, packet) else packet
    assert crosses(Judge(firewall_ruleset(wall)), packet) == is_permitted(wall, known)


@given(firewalls(), packets)
def test_nobody_reaches_the_firewall_itself(wall: Firewall, packet: dict[str, object]) -> None:
    judge = Judge(firewall_ruleset(wall))
    assert not judge.judge("input", packet).accepted
    assert not judge.judge("output", packet).accepted


@given(packets)
def test_without_flows_nothing_crosses(packet: dict[str, object]) -> None:
    assert not crosses(Judge(firewall_ruleset(firewall())), packet)


def packet(way: tuple[str, str], ends: tuple[str, str], protocol: str, **fields: object) -> dict[str, object]:
    return {
        "meta.nfproto": "ipv4", "ether.type": "ip", "meta.iifname": way[0], "meta.oifname": way[1],
        "ip.saddr": ends[0], "ip.daddr": ends[1], "meta.l4proto": protocol, **fields,
    }  # fmt: skip


def test_errors_about_followed_connections_cross_and_no_other_icmp() -> None:
    judge = Judge(firewall_ruleset(firewall((out_flow,))))
    error = packet((OUTSIDE, INSIDE), ("10.0.2.10", "10.0.1.10"), "icmp")
    unreachable = {**error, "icmp.type": "destination-unreachable"}
    assert crosses(judge, {**unreachable, "ct.state": "related"})
    assert not crosses(judge, {**unreachable, "ct.state": "new"})
    assert not crosses(judge, {**unreachable, "ct.state": "invalid"})
    assert not crosses(judge, {**error, "icmp.type": "redirect", "ct.state": "related"})
    assert not crosses(judge, {**error, "icmp.type": "echo-request", "ct.state": "new"})


def test_nothing_comes_back_from_a_one_way_flow() -> None:
    judge = Judge(firewall_ruleset(firewall((diode,))))
    there = packet((INSIDE, OUTSIDE), ("10.0.1.10", "10.0.2.10"), "udp", **{"udp.sport": 9, "udp.dport": 502})
    back = packet((OUTSIDE, INSIDE), ("10.0.2.10", "10.0.1.10"), "udp", **{"udp.sport": 502, "udp.dport": 9})
    assert crosses(judge, {**there, "ct.state": "new"})
    for state in ("new", "established", "related", "untracked"):
        assert not crosses(judge, {**back, "ct.state": state, "ct.direction": "reply"})


def test_ipv6_never_crosses() -> None:
    judge = Judge(firewall_ruleset(firewall((out_flow,), (in_flow,))))
    six = {"meta.nfproto": "ipv6", "ether.type": "ip6", "meta.iifname": INSIDE, "meta.oifname": OUTSIDE}
    for state in ("new", "established", "related"):
        assert not crosses(judge, {**six, "ct.state": state})


@pytest.mark.parametrize("reason", list(FlowDenial))
def test_what_is_recorded_is_bounded_for_each_source(reason: FlowDenial) -> None:
    commands = firewall_ruleset(firewall())["nftables"]
    rules = [command["add"]["rule"] for command in commands if "rule" in command.get("add", {})]
    of_ipv4, of_others, rest = (rule["expr"] for rule in rules if rule["chain"] == f"deny_{reason.name.lower()}")
    assert of_ipv4[0]["set"]["elem"] == {"payload": {"protocol": "ip", "field": "saddr"}}
    assert "limit" in of_ipv4[0]["set"]["stmt"][0]
    assert [next(iter(statement)) for statement in of_others] == ["match", "limit", "log"]
    assert [next(iter(statement)) for statement in rest] == ["counter", "drop"]


def test_one_way_needs_udp() -> None:
    with pytest.raises(ValueError, match="one-way needs udp"):
        firewall_ruleset(firewall((replace(out_flow, one_way=True),)))
