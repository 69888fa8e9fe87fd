# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's own network: namespace, bridges, taps, rules kept as they have to be. Needs root; boots no VM."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from network_rig import BROADCAST, NO_RULES, InNamespace, Rig, apply, arp, mac_of, port, tap_of, udp
from pyroute2 import IPRoute

from vinci.node.network import (
    NAMESPACES,
    NetworkError,
    NodeNetwork,
    ensure_namespace,
    enter_namespace,
    inside_namespace,
    remove_namespace,
)
from vinci.node.rules import Rules
from vinci.plan.types import Bridge

pytestmark = pytest.mark.system

FW, FS, A, B = "10.20.1.1", "10.20.1.2", "10.20.1.10", "10.20.1.11"
APPS = (A, B)
PORTS = (port(FW, APPS, ["10.20.2.0/24"]), port(FS, APPS), port(A, (FW, FS)), port(B, (FW, FS)))
VCN = Bridge("b0a140100", "doctors", IPv4Network("10.20.1.0/24"), PORTS)
OTHER = Bridge("b0a140200", "nurses", IPv4Network("10.20.2.0/24"), (port("10.20.2.1", ()),))


@pytest.fixture
def inside() -> Iterator[InNamespace]:
    made = InNamespace(f"vn{os.getpid()}")
    yield made
    made.close()


@pytest.fixture
def network(inside: InNamespace) -> NodeNetwork:
    return NodeNetwork(inside.name)


def links() -> dict[str, Any]:
    with IPRoute() as netlink:
        return {link.get("ifname"): link for link in netlink.get_links()}


def flush() -> None:
    apply(NO_RULES)


def generation() -> int:
    return Rules().generation()


def test_a_namespace_is_made_once_entered_and_removed() -> None:
    name = f"vm{os.getpid()}"
    try:
        assert ensure_namespace(name)
        assert not ensure_namespace(name)
        child = multiprocessing.get_context("fork").Process(target=_enters, args=(name,))
        child.start()
        child.join(10)
        assert child.exitcode == 0
        assert not inside_namespace(name)
    finally:
        remove_namespace(name)
    assert not (NAMESPACES / name).exists()
    remove_namespace(name)


def _enters(name: str) -> None:
    enter_namespace(name)
    raise SystemExit(0 if inside_namespace(name) and set(links()) <= {"lo"} else 1)


def test_a_namespace_half_made_by_a_crash_is_made_anew() -> None:
    name = f"vm{os.getpid()}"
    NAMESPACES.mkdir(exist_ok=True)
    (NAMESPACES / name).touch()
    try:
        assert ensure_namespace(name)
        assert InNamespace(name)(inside_namespace, name)
    finally:
        remove_namespace(name)


def test_the_hosts_network_is_never_touched(inside: InNamespace, network: NodeNetwork) -> None:
    before = set(links())
    with pytest.raises(NetworkError, match="not in the network namespace"):
        network.converge([VCN])
    assert set(links()) == before


def test_the_second_time_nothing_changes(inside: InNamespace, network: NodeNetwork) -> None:
    assert inside(network.converge, [VCN, OTHER])
    before = inside(generation)
    assert inside(network.converge, [VCN, OTHER]) == []
    assert inside(generation) == before


def test_bridges_and_ports_are_silent_and_complete(inside: InNamespace, network: NodeNetwork) -> None:
    inside(network.converge, [VCN])
    found = inside(links)
    assert set(found) == {"lo", VCN.name, *(each.tap for each in PORTS)}
    bridge = found[VCN.name]
    for name, value in (("br_stp_state", 0), ("br_mcast_snooping", 0), ("br_mcast_querier", 0)):
        assert bridge.get(("linkinfo", "data", name)) == value
    assert bridge.get("address") == "02:57:0a:14:01:00"
    assert inside(_addresses) == []
    tap = found[tap_of(A)]
    assert tap.get("group") == int(PORTS[2].address)
    assert tap.get("master") == bridge["index"]
    flags = {name: tap.get(("linkinfo", "slave_data", name)) for name in ("learning", "unicast_flood", "isolated")}
    assert flags == {"learning": 0, "unicast_flood": 0, "isolated": 1}
    for name in ("net/bridge/bridge-nf-call-iptables", "net/ipv4/ip_forward"):
        assert inside((Path("/proc/sys") / name).read_text).strip() == "0"


def _addresses() -> list[str]:
    with IPRoute() as netlink:
        return [str(address.get("address")) for address in netlink.get_addr()]


@pytest.mark.parametrize(
    "spoil",
    [
        {"group": 0},
        {"group": 7},
        {"master": 0},
        {"state": "down"},
    ],
    ids=["no group", "another group", "off the bridge", "down"],
)
def test_a_spoilt_port_is_mended(inside: InNamespace, network: NodeNetwork, spoil: dict[str, Any]) -> None:
    inside(network.converge, [VCN])
    inside(_set, tap_of(A), **spoil)
    assert inside(network.converge, [VCN]) == [f"port {tap_of(A)} made"]
    assert inside(network.converge, [VCN]) == []


def test_a_bridge_that_is_down_is_set_up(inside: InNamespace, network: NodeNetwork) -> None:
    """As one is when the agent is killed between making it and setting it up."""
    inside(network.converge, [VCN])
    inside(_set, VCN.name, state="down")
    assert inside(network.converge, [VCN]) == [f"bridge {VCN.name} made"]
    assert inside(network.converge, [VCN]) == []
    assert inside(links)[VCN.name]["state"] == "up"


def _set(name: str, **values: Any) -> None:
    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname=name)[0], **values)


def test_rules_that_somebody_flushed_are_put_back(inside: InNamespace, network: NodeNetwork) -> None:
    inside(network.converge, [VCN])
    inside(flush)
    assert inside(network.converge, [VCN]) == ["the bridges' rules had been changed by somebody else and were replaced"]
    assert inside(network.converge, [VCN]) == []


def test_a_new_agent_takes_over_what_is_there(inside: InNamespace, network: NodeNetwork) -> None:
    inside(network.converge, [VCN])
    indices = {name: link["index"] for name, link in inside(links).items()}
    inside(NodeNetwork(inside.name).converge, [VCN])
    assert {name: link["index"] for name, link in inside(links).items()} == indices


def test_what_no_plan_names_any_more_is_removed(inside: InNamespace, network: NodeNetwork) -> None:
    inside(network.converge, [VCN, OTHER])
    inside(network.converge, [replace(VCN, ports=PORTS[:3])])
    assert set(inside(links)) == {"lo", VCN.name, *(each.tap for each in PORTS[:3])}
    inside(network.converge, [])
    assert set(inside(links)) == {"lo"}


def test_refused_rules_leave_those_in_force(inside: InNamespace, network: NodeNetwork) -> None:
    inside(network.converge, [VCN])
    before = inside(generation)
    with pytest.raises(NetworkError, match="refused the rules"):
        inside(apply, {"nftables": [{"flush": {"ruleset": None}}, {"add": {"rule": {"family": "bridge"}}}]})
    assert inside(generation) == before


# With guests on the ports, and the flags that stand behind the rules --------------------------------------------------


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Guests on veths that the node's network finds under the taps' names and takes for its ports."""
    made = Rig(f"vr{os.getpid()}", VCN)
    yield made
    made.close()


@pytest.fixture
def node(rig: Rig) -> NodeNetwork:
    made = NodeNetwork(rig.node.name)
    rig.node(made.converge, [VCN])
    return made


def test_claiming_a_neighbours_mac_draws_no_frames(rig: Rig, node: NodeNetwork) -> None:
    """Even without rules: the bridge learns from no port. With learning on, FS's frames would go to A's port."""
    rig.node(flush)
    rig[A].send(arp(1, mac_of(B), B, FS, source_mac=mac_of(B)))
    assert rig.delivered(FW, udp(FW, B), B, FS)
    assert not rig.delivered(FW, udp(FW, B, payload=b"for B"), A, FS)


def test_isolated_ports_are_apart_even_without_rules(rig: Rig, node: NodeNetwork) -> None:
    rig.node(flush)
    assert not rig.delivered(A, udp(A, B), B, FS)
    assert not rig.delivered(A, udp(A, "10.20.1.255", to_mac=BROADCAST), B, FS)
    assert rig.delivered(A, udp(A, FS), FS, B)


LLDP_GROUP = "01:80:c2:00:00:0e"


def test_no_frame_reaches_the_hosts_stack(rig: Rig, node: NodeNetwork) -> None:
    """Frames for LLDP's group pass the bridge's rules by. Give a port an address, and it still hears nothing."""
    rig.node(_set_address, tap_of(A), "10.20.1.77")
    question = arp(1, mac_of(A), A, "10.20.1.77", to_mac=LLDP_GROUP)
    datagram = udp(A, "10.20.1.77", ports=(1, 7777), to_mac=LLDP_GROUP)
    heard = rig.node(_listen, 7777)
    with heard:
        assert not _host_answers(rig, question)
        rig[A].send(datagram)
        rig.node(flush)
        assert _host_answers(rig, question), "without rules the host must answer"
        rig[A].send(datagram.replace(b"hello", b"HELLO"))
        assert heard.recv(100) == b"HELLO", "the first datagram must not have been heard"


def _set_address(name: str, address: str) -> None:
    with IPRoute() as netlink:
        netlink.addr("add", index=netlink.link_lookup(ifname=name)[0], address=address, prefixlen=24)


def _listen(port_number: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("0.0.0.0", port_number))
    made.settimeout(5)
    return made


def _host_answers(rig: Rig, question: bytes) -> bool:
    """Whether an ARP reply comes before a frame that FS sends afterwards."""
    rig[A].send(question)
    marker = b"after the question"
    rig[FS].send(udp(FS, A, payload=marker))
    return any(frame[12:14] == b"\x08\x06" for frame in rig[A].seen_until(marker))


def test_quarantine_lasts_over_passes_until_release(rig: Rig, node: NodeNetwork) -> None:
    assert rig.delivered(A, udp(A, FS), FS, B)
    rig.node(node.quarantine, tap_of(A))
    assert not rig.delivered(A, udp(A, FS), FS, B)
    assert rig.node(node.converge, [VCN]) == []
    assert not rig.delivered(A, udp(A, FS), FS, B)
    rig.node(node.release, tap_of(A))
    assert rig.delivered(A, udp(A, FS), FS, B)
