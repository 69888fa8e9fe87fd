# SPDX-License-Identifier: GPL-2.0-or-later
"""Two FW-VMs' rules on real routers: namespaces in a row, a client's VCN, the transit network, a server's VCN.

    client eth0 -- eth0 [firewall A] eth1 -- eth1 [firewall B] eth0 -- eth0 server

Needs root; boots no VM. A drop is seen in the counter of the chain in which it ends.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from network_rig import NO_RULES, InNamespace, apply
from nftables import Nftables
from pyroute2 import IPRoute

from vinci.model.infrastructure import Protocol
from vinci.plan.firewall_rules import FlowDenial, firewall_ruleset
from vinci.plan.types import Firewall, FlowRule

pytestmark = pytest.mark.system

CLIENTS, SERVERS = IPv4Network("10.20.3.0/24"), IPv4Network("10.20.2.0/24")
CLIENT, SERVER = "10.20.3.10", "10.20.2.10"
NEVER = 0.2
"""Seconds after which what has not arrived over four local links will not."""

HTTPS = FlowRule(
    "clients", CLIENTS, (IPv4Address(CLIENT),), "servers", SERVERS, (IPv4Address(SERVER),), Protocol.TCP, 443, False
)
DNS = replace(HTTPS, protocol=Protocol.UDP, port=53)
DIODE = replace(HTTPS, protocol=Protocol.UDP, port=502, one_way=True)
FLOWS = (HTTPS, DNS, DIODE)


def walls(at_clients: tuple[FlowRule, ...], at_servers: tuple[FlowRule, ...]) -> tuple[Firewall, Firewall]:
    return (
        Firewall("a", "clients", CLIENTS, IPv4Address("10.20.3.1"), IPv4Address("10.255.0.1"), at_clients, ()),
        Firewall("b", "servers", SERVERS, IPv4Address("10.20.2.1"), IPv4Address("10.255.0.2"), (), at_servers),
    )


class Row:
    """The four namespaces in a row."""

    def __init__(self) -> None:
        names = ("client", "a", "b", "server")
        self.client, self.a, self.b, self.server = (InNamespace(f"vf{os.getpid()}-{name}") for name in names)
        self._link(self.client, "eth0", self.a, "eth0")
        self._link(self.a, "eth1", self.b, "eth1")
        self._link(self.b, "eth0", self.server, "eth0")
        self.client(_card, "eth0", CLIENT, [("default", "10.20.3.1")])
        self.server(_card, "eth0", SERVER, [("default", "10.20.2.1")])
        self.a(_card, "eth0", "10.20.3.1", [])
        self.b(_card, "eth0", "10.20.2.1", [])
        self.a(_card, "eth1", "10.255.0.1", [(str(SERVERS), "10.255.0.2")])
        self.b(_card, "eth1", "10.255.0.2", [(str(CLIENTS), "10.255.0.1")])
        for wall in (self.a, self.b):
            wall(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")

    @staticmethod
    def _link(one: InNamespace, name: str, other: InNamespace, other_name: str) -> None:
        one(_veth, name, other_name, other.name)

    def load(self, at_clients: tuple[FlowRule, ...] = FLOWS, at_servers: tuple[FlowRule, ...] = FLOWS) -> None:
        a, b = walls(at_clients, at_servers)
        self.a(apply, firewall_ruleset(a))
        self.b(apply, firewall_ruleset(b))

    def open(self) -> None:
        for wall in (self.a, self.b):
            wall(apply, NO_RULES)

    def close(self) -> None:
        for each in (self.client, self.a, self.b, self.server):
            each.close()


def _veth(name: str, other: str, namespace: str) -> None:
    with IPRoute() as netlink:
        netlink.link("add", ifname=name, kind="veth", peer={"ifname": other, "net_ns_fd": namespace})


def _card(name: str, address: str, routes: list[tuple[str, str]]) -> None:
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=name)[0]
        netlink.link("set", index=index, state="up")
        netlink.addr("add", index=index, address=address, prefixlen=24)
        for network, via in routes:
            netlink.route("add", dst=network, gateway=via)


@pytest.fixture(scope="module")
def row() -> Iterator[Row]:
    made = Row()
    yield made
    made.close()


@pytest.fixture
def loaded(row: Row) -> Row:
    row.load()
    return row


def drops(reason: FlowDenial) -> int:
    """Packets that ended in the chain of a reason, in the calling thread's namespace."""
    nft = Nftables()
    nft.set_json_output(True)
    _status, listed, _error = nft.json_cmd({"nftables": [{"list": {"table": {"family": "inet", "name": "vinci"}}}]})
    return sum(
        statement["counter"]["packets"]
        for item in listed["nftables"]
        if item.get("rule", {}).get("chain") == f"deny_{reason.name.lower()}"
        for statement in item["rule"]["expr"]
        if "counter" in statement
    )


def _server(kind: int, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("0.0.0.0", port))
    made.settimeout(5)
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def connects(at: InNamespace, to: tuple[str, int], listener: InNamespace, seconds: float = 5) -> bool:
    server = listener(_server, socket.SOCK_STREAM, to[1])
    client = at(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(seconds)
    with server, client:
        with suppress(OSError):
            client.connect(to)
            return True
        return False


def test_a_declared_connection_works_both_ways(loaded: Row) -> None:
    server = loaded.server(_server, socket.SOCK_STREAM, 443)
    client = loaded.client(socket.create_connection, (SERVER, 443), 5)
    with server, client:
        served, _ = server.accept()
        with served:
            client.sendall(b"question")
            assert served.recv(100) == b"question"
            served.sendall(b"answer")
            assert client.recv(100) == b"answer"


@pytest.mark.parametrize("case", ["another port", "the other direction"])
def test_an_undeclared_connection_ends_at_the_first_firewall(row: Row, case: str) -> None:
    at, to, listener, wall = {
        "another port": (row.client, (SERVER, 80), row.server, row.a),
        "the other direction": (row.server, (CLIENT, 443), row.client, row.b),
    }[case]
    row.open()
    assert connects(at, to, listener), "without rules it must connect"
    row.load()
    before = wall(drops, FlowDenial.NOT_DECLARED)
    assert not connects(at, to, listener, NEVER)
    assert wall(drops, FlowDenial.NOT_DECLARED) > before


@pytest.mark.parametrize("permitting", ["source only", "target only"])
def test_both_sides_have_to_permit(row: Row, permitting: str) -> None:
    row.load(*{"source only": (FLOWS, ()), "target only": ((), FLOWS)}[permitting])
    refusing = {"source only": row.b, "target only": row.a}[permitting]
    assert not connects(row.client, (SERVER, 443), row.server, NEVER)
    assert refusing(drops, FlowDenial.NOT_DECLARED) > 0
    row.load()
    assert connects(row.client, (SERVER, 443), row.server)


def test_a_connection_ends_when_its_flow_is_no_longer_declared(row: Row) -> None:
    row.load()
    server = row.server(_server, socket.SOCK_STREAM, 443)
    client = row.client(socket.create_connection, (SERVER, 443), 5)
    with server, client:
        served, _ = server.accept()
        with served:
            row.load((), ())
            client.sendall(b"too late")
            served.settimeout(NEVER)
            with pytest.raises(TimeoutError):
                served.recv(100)
            assert row.a(drops, FlowDenial.NOT_DECLARED) > 0


def datagram(row: Row, port: int) -> tuple[socket.socket, socket.socket, Any]:
    """Sends one datagram; client, server, and whom the server sees."""
    server = row.server(_server, socket.SOCK_DGRAM, port)
    client = row.client(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(5)
    client.connect((SERVER, port))
    client.send(b"there")
    data, source = server.recvfrom(100)
    assert data == b"there"
    return client, server, source


def test_answers_of_a_declared_datagram_come_back(loaded: Row) -> None:
    client, server, source = datagram(loaded, 53)
    with client, server:
        server.sendto(b"back", source)
        assert client.recv(100) == b"back"


def test_nothing_comes_back_from_a_one_way_flow(row: Row) -> None:
    row.load()
    client, server, source = datagram(row, 502)
    with client, server:
        before = row.b(drops, FlowDenial.NOT_DECLARED)
        server.sendto(b"back", source)
        client.settimeout(NEVER)
        with pytest.raises(TimeoutError):
            client.recv(100)
        assert row.b(drops, FlowDenial.NOT_DECLARED) == before + 1


def test_an_error_about_a_declared_datagram_comes_back(loaded: Row) -> None:
    client = loaded.client(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(5)
    with client:
        client.connect((SERVER, 53))
        client.send(b"to nobody")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


@pytest.mark.parametrize("address", ["10.20.3.1", "10.255.0.1", "10.255.0.2", "10.20.2.1"])
def test_no_firewall_is_reached_itself(row: Row, address: str) -> None:
    wall = row.a if address in ("10.20.3.1", "10.255.0.1") else row.b
    first = row.a
    row.open()
    assert connects(row.client, (address, 22), wall)
    row.load()
    assert not connects(row.client, (address, 22), wall, NEVER)
    own = address in ("10.20.3.1", "10.255.0.1")
    assert first(drops, FlowDenial.TO_FIREWALL if own else FlowDenial.NOT_DECLARED) > 0


def test_no_ping_crosses_or_is_answered(loaded: Row) -> None:
    for to, reason in ((SERVER, FlowDenial.NOT_DECLARED), ("10.20.3.1", FlowDenial.TO_FIREWALL)):
        before = loaded.a(drops, reason)
        raw = loaded.client(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        with raw:
            raw.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", (to, 0))
        assert loaded.a(drops, reason) == before + 1


def test_a_packet_of_no_connection_does_not_cross(loaded: Row) -> None:
    """An ACK out of nothing: conntrack alone would take it for a connection that it missed."""
    before = loaded.a(drops, FlowDenial.NOT_DECLARED) + loaded.a(drops, FlowDenial.INVALID)
    raw = loaded.client(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        raw.sendto(_tcp_segment(4000, 443, flags=0x10), (SERVER, 0))
    assert loaded.a(drops, FlowDenial.NOT_DECLARED) + loaded.a(drops, FlowDenial.INVALID) == before + 1


def test_a_source_of_another_network_is_spoofed(loaded: Row) -> None:
    before = loaded.a(drops, FlowDenial.SPOOFED)
    raw = loaded.client(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    source, to = IPv4Address("10.20.9.9").packed, IPv4Address(SERVER).packed
    with raw:
        header = b"\x45\x00\x00\x28\x00\x01\x00\x00\x40\x06\x00\x00"
        raw.sendto(header + source + to + _tcp_segment(4000, 443, flags=0x02), (SERVER, 0))
    assert loaded.a(drops, FlowDenial.SPOOFED) == before + 1


def _tcp_segment(source: int, to: int, flags: int) -> bytes:
    return source.to_bytes(2) + to.to_bytes(2) + bytes(8) + bytes([0x50, flags]) + b"\x04\x00" + bytes(4)
