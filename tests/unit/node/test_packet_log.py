# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dropped frame claims is read whatever its bytes are."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinci.node.packet_log import describe_frame
from vinci.plan.bridge_filter import DropReason

MACS = bytes.fromhex("0256 0a140102 0256 0a14010a".replace(" ", ""))
IP = bytes.fromhex("4500 0021 0007 0000 4011 0000 0a14010a 0a140102".replace(" ", ""))
PORTS = bytes.fromhex("0fa0 1388 000d 0000".replace(" ", ""))
ARP = bytes.fromhex("0001 0800 06 04 0002 02560a14010a 0a140101 000000000000 0a140102".replace(" ", ""))


def test_an_ipv4_frame() -> None:
    frame = describe_frame("v0a14010a", DropReason.NOT_A_PEER, MACS + b"\x08\x00", IP + PORTS)
    assert (frame.port, frame.source_mac, frame.to_mac) == ("v0a14010a", "02:56:0a:14:01:0a", "02:56:0a:14:01:02")
    assert (frame.source, frame.to) == (IPv4Address("10.20.1.10"), IPv4Address("10.20.1.2"))
    assert (frame.protocol, frame.to_port, frame.vlan) == ("udp", 5000, None)


def test_a_later_fragment_has_no_ports() -> None:
    fragment = IP[:6] + b"\x00\x02" + IP[8:]
    frame = describe_frame("v", DropReason.SPOOFED_IP, MACS + b"\x08\x00", fragment + PORTS)
    assert (frame.protocol, frame.to_port) == ("udp", None)


def test_an_arp_frame() -> None:
    frame = describe_frame("v", DropReason.SPOOFED_ARP, MACS + b"\x08\x06", ARP)
    assert (frame.protocol, frame.source, frame.to) == ("arp", IPv4Address("10.20.1.1"), IPv4Address("10.20.1.2"))


@pytest.mark.parametrize(
    "header", [MACS + b"\x81\x00" + b"\x00\x05\x08\x00", MACS + b"\x81\x00"], ids=["behind", "after"]
)
def test_a_tag_in_the_frame(header: bytes) -> None:
    assert describe_frame("v", DropReason.VLAN, header, b"\x00\x05\x08\x00" + IP).vlan == 5


def test_a_tag_that_the_kernel_took_out() -> None:
    assert describe_frame("v", DropReason.VLAN, MACS + b"\x08\x00", IP, 0x6005).vlan == 5


@given(st.binary(max_size=40), st.binary(max_size=200), st.none() | st.integers(0, 0xFFFF))
def test_any_bytes_are_described(header: bytes, payload: bytes, tag: int | None) -> None:
    frame = describe_frame("v", DropReason.ETHERTYPE, header, payload, tag)
    assert len(frame.source_mac) == len(frame.to_mac) == 17
    assert 0 <= frame.ethertype <= 0xFFFF


@given(st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x81\x00"]), st.binary(max_size=120))
def test_any_packet_of_a_known_kind_is_described(kind: bytes, payload: bytes) -> None:
    frame = describe_frame("v", DropReason.ETHERTYPE, MACS + kind, payload)
    assert frame.to_port is None or 0 <= frame.to_port <= 0xFFFF
