# SPDX-License-Identifier: GPL-2.0-or-later
"""The bridges' rules against raw frames of a hostile guest. Needs root; namespaces stand for VMs.

Each attack is sent twice: without rules it must arrive, or the test would prove nothing; with rules it must not, and
the drop must be recorded under the right port and reason.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Network

import pytest
from network_rig import BROADCAST, Rig, arp, ether, icmp, ipv4, mac_of, port, tap_of, tcp, udp, udp_header

from vinci.node.packet_log import RECEIVE_BYTES
from vinci.plan import bridge_rules
from vinci.plan.bridge_rules import port_added, port_group, port_removed, quarantine, release
from vinci.plan.types import Bridge

pytestmark = pytest.mark.system

FW, FS, A, B = "10.20.1.1", "10.20.1.2", "10.20.1.10", "10.20.1.11"
BEHIND, ELSEWHERE = "10.20.2.10", "10.99.0.1"
APPS = (A, B)
VCN = Bridge(
    "b0a140100",
    "doctors",
    IPv4Network("10.20.1.0/24"),
    (port(FW, APPS, ["10.20.2.0/24"]), port(FS, APPS), port(A, (FW, FS)), port(B, (FW, FS))),
)
FOREIGN_MAC = "02:56:0a:14:09:09"


def v6(next_header: int, payload: bytes) -> bytes:
    source, to = bytes.fromhex("fe80" + "00" * 13 + "0a"), bytes.fromhex("fe80" + "00" * 13 + "02")
    return bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2) + bytes([next_header, 255]) + source + to + payload


DHCP = b"\x01\x01\x06\x00" + bytes(20)
PLAIN = ipv4(A, FS, 17, udp_header(1, 2))
TO_FS, OF_A = mac_of(FS), mac_of(A)

ATTACKS = {
    # name: (frame sent by A, who would see it without rules, reason recorded)
    "another MAC": (udp(A, FS, source_mac=FOREIGN_MAC), FS, "spoofed-mac"),
    "a neighbour's MAC": (udp(A, FS, source_mac=mac_of(B)), FS, "spoofed-mac"),
    "another MAC in a broadcast": (arp(1, FOREIGN_MAC, A, FS), FS, "spoofed-mac"),
    "a neighbour's address": (udp(B, FS, source_mac=OF_A), FS, "spoofed-ip"),
    "a foreign address": (udp(ELSEWHERE, FS, source_mac=OF_A), FS, "spoofed-ip"),
    "the gateway's address": (tcp(FW, FS).replace(mac_of_bytes := bytes.fromhex(mac_of(FW).replace(":", "")),
                                                  bytes.fromhex(OF_A.replace(":", ""))), FS, "spoofed-ip"),
    "a neighbour's address in a later fragment": (
        ether(TO_FS, OF_A, 0x0800, ipv4(B, FS, 17, bytes(16), fragment=2)), FS, "spoofed-ip"),
    "ARP reply for the gateway": (arp(2, OF_A, FW, FS, to_mac=TO_FS), FS, "spoofed-arp"),
    "ARP reply naming another MAC": (arp(2, FOREIGN_MAC, A, FS, to_mac=TO_FS, source_mac=OF_A), FS, "spoofed-arp"),
    "ARP request in another's name": (arp(1, OF_A, B, FS), FS, "spoofed-arp"),
    "ARP request naming another MAC": (arp(1, mac_of(B), A, FS, source_mac=OF_A), FS, "spoofed-arp"),
    "gratuitous ARP for the gateway": (arp(1, OF_A, FW, FW), FS, "spoofed-arp"),
    "ARP probe": (arp(1, OF_A, "0.0.0.0", FS), FS, "spoofed-arp"),
    "ARP announcing itself to all by a reply": (arp(2, OF_A, A, FS), FS, "not-a-peer"),
    "ARP of other hardware": (arp(1, OF_A, A, FS, kind=(6, 0x0800, 6, 4), to_mac=TO_FS), FS, "spoofed-arp"),
    "ARP for another protocol": (arp(1, OF_A, A, FS, kind=(1, 0x86DD, 6, 4), to_mac=TO_FS), FS, "spoofed-arp"),
    "ARP with longer MACs": (arp(1, OF_A, A, FS, kind=(1, 0x0800, 8, 4), to_mac=TO_FS), FS, "spoofed-arp"),
    "ARP with longer addresses": (arp(1, OF_A, A, FS, kind=(1, 0x0800, 6, 16), to_mac=TO_FS), FS, "spoofed-arp"),
    "ARP of another operation": (arp(3, OF_A, A, FS, to_mac=TO_FS), FS, "spoofed-arp"),
    "VLAN tag": (ether(TO_FS, OF_A, 0x0800, PLAIN, [(0x8100, 5)]), FS, "vlan"),
    "VLAN tag 0": (ether(TO_FS, OF_A, 0x0800, PLAIN, [(0x8100, 0)]), FS, "vlan"),
    "802.1ad tag": (ether(TO_FS, OF_A, 0x0800, PLAIN, [(0x88A8, 5)]), FS, "vlan"),
    "two tags": (ether(TO_FS, OF_A, 0x0800, PLAIN, [(0x88A8, 5), (0x8100, 6)]), FS, "vlan"),
    "two equal tags": (ether(TO_FS, OF_A, 0x0800, PLAIN, [(0x8100, 5), (0x8100, 6)]), FS, "vlan"),
    "old QinQ tag": (ether(TO_FS, OF_A, 0x0800, PLAIN, [(0x9100, 5)]), FS, "vlan"),
    "tagged ARP": (ether(TO_FS, OF_A, 0x0806, arp(2, OF_A, FW, FS)[14:], [(0x8100, 5)]), FS, "vlan"),
    "IPv6": (ether(TO_FS, OF_A, 0x86DD, v6(17, udp_header(1, 2))), FS, "ipv6"),
    "IPv6 neighbour advertisement to all": (
        ether("33:33:00:00:00:01", OF_A, 0x86DD, v6(58, b"\x88" + bytes(23))), FS, "ipv6"),
    "router advertisement": (ether("33:33:00:00:00:01", OF_A, 0x86DD, v6(58, b"\x86" + bytes(15))), FS, "ra"),
    "IPv4 router advertisement": (icmp(A, FS, 9), FS, "ra"),
    "ICMP redirect": (icmp(A, FS, 5), FS, "icmp-redirect"),
    "other ethertype": (ether(TO_FS, OF_A, 0x88B5, b"hidden"), FS, "ethertype"),
    "PPPoE": (ether(TO_FS, OF_A, 0x8863, b"hidden"), FS, "ethertype"),
    "802.3 length": (ether(TO_FS, OF_A, 40, bytes([0xAA, 0xAA, 3]) + b"hidden"), FS, "ethertype"),
    "DHCP discovery": (udp("0.0.0.0", "255.255.255.255", ports=(68, 67), payload=DHCP, source_mac=OF_A,
                           to_mac=BROADCAST), FS, "dhcp"),
    "DHCP request to one": (udp(A, FS, ports=(68, 67), payload=DHCP), FS, "dhcp"),
    "DHCP offer": (udp(A, FS, ports=(67, 68), payload=DHCP), FS, "dhcp"),
    "limited broadcast": (udp(A, "255.255.255.255", to_mac=BROADCAST), FS, "broadcast"),
    "broadcast of the VCN": (udp(A, "10.20.1.255", to_mac=BROADCAST), FS, "broadcast"),
    "multicast": (udp(A, "224.0.0.251", to_mac="01:00:5e:00:00:fb"), FS, "broadcast"),
    "multicast to one MAC": (udp(A, "224.0.0.251", to_mac=TO_FS), FS, "broadcast"),
    "a neighbour who is no peer": (udp(A, B), B, "not-a-peer"),
    "TCP to a neighbour": (tcp(A, B), B, "not-a-peer"),
    "ping of a neighbour": (icmp(A, B, 8), B, "not-a-peer"),
    "a neighbour's address at a peer's MAC": (udp(A, B, to_mac=TO_FS), FS, "not-a-peer"),
    "a peer's address at a neighbour's MAC": (udp(A, FS, to_mac=mac_of(B)), B, "not-a-peer"),
    "ARP question for a neighbour": (arp(1, OF_A, A, B), B, "not-a-peer"),
    "ARP answer to a neighbour": (arp(2, OF_A, A, B, to_mac=mac_of(B)), B, "not-a-peer"),
    "a network that the gateway does not route": (udp(A, ELSEWHERE, to_mac=mac_of(FW)), FW, "not-a-peer"),
    "another community through the FS-VM": (udp(A, BEHIND, to_mac=TO_FS), FS, "not-a-peer"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_dropped_and_recorded(rig: Rig, name: str) -> None:
    frame, target, reason = ATTACKS[name]
    witness = A if target in (FW, FS) else FS

    rig.flush()
    assert rig.delivered(A, frame, target, witness), "without rules the attack must arrive"

    rig.load()
    assert not rig.delivered(A, frame, target, witness)
    (record,) = rig.dropped((tap_of(A), reason))
    assert record.source_mac == frame[6:12].hex(":")


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_recorded_once(vcn: Rig, name: str) -> None:
    frame, _target, reason = ATTACKS[name]
    vcn[A].send(frame)
    records = vcn.records_until(A, FS)
    assert [(record.port, record.reason.value) for record in records] == [(tap_of(A), reason)]


def test_a_question_for_an_address_that_nobody_has_is_recorded(vcn: Rig) -> None:
    vcn[A].send(arp(1, OF_A, A, "10.20.1.254"))
    assert [(record.port, record.reason.value) for record in vcn.records_until(A, FS)] == [(tap_of(A), "not-a-peer")]


GATEWAY_ATTACKS = {
    "a source that it does not route": (udp(ELSEWHERE, A, source_mac=mac_of(FW)), "spoofed-ip"),
    "a source on the VCN": (udp(B, A, source_mac=mac_of(FW)), "spoofed-ip"),
    "the FS-VM's address": (udp(FS, A, source_mac=mac_of(FW)), "spoofed-ip"),
    "ARP for an address that it routes": (arp(2, mac_of(FW), BEHIND, A, to_mac=mac_of(A)), "spoofed-arp"),
    "DHCP from a routed source": (udp(BEHIND, A, source_mac=mac_of(FW), ports=(67, 68)), "dhcp"),
    "redirect": (icmp(FW, A, 5), "icmp-redirect"),
    "a routed source for nobody": (udp(BEHIND, "10.20.1.99", source_mac=mac_of(FW), to_mac=mac_of(A)), "not-a-peer"),
}


@pytest.mark.parametrize("name", GATEWAY_ATTACKS)
def test_the_gateway_carries_only_what_it_routes(rig: Rig, name: str) -> None:
    frame, reason = GATEWAY_ATTACKS[name]
    rig.flush()
    assert rig.delivered(FW, frame, A, FS)
    rig.load()
    assert not rig.delivered(FW, frame, A, FS)
    rig.dropped((tap_of(FW), reason))


LEGAL = {
    "UDP to the FS-VM": (A, udp(A, FS), FS),
    "TCP to the FS-VM": (A, tcp(A, FS), FS),
    "ping of the FS-VM": (A, icmp(A, FS, 8), FS),
    "a later fragment": (A, ether(TO_FS, OF_A, 0x0800, ipv4(A, FS, 17, bytes(16), fragment=2)), FS),
    "answer of the FS-VM": (FS, tcp(FS, A, (5000, 4000), flags=0x12), A),
    "ARP question": (A, arp(1, OF_A, A, FS), FS),
    "ARP question to one": (A, arp(1, OF_A, A, FS, to_mac=TO_FS), FS),
    "ARP answer": (FS, arp(2, TO_FS, FS, A, to_mac=OF_A), A),
    "another community": (A, tcp(A, BEHIND).replace(bytes.fromhex(mac_of(BEHIND).replace(":", "")),
                                                    bytes.fromhex(mac_of(FW).replace(":", ""))), FW),
    "ping of another community": (A, icmp(A, BEHIND, 8, to_mac=mac_of(FW)), FW),
    "answer of another community": (FW, udp(BEHIND, A, source_mac=mac_of(FW)), A),
    "TCP to a port that DHCP has in UDP": (A, tcp(A, FS, (4000, 67)), FS),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_legal_frames_pass_and_leave_no_record(vcn: Rig, name: str) -> None:
    sender, frame, to = LEGAL[name]
    assert vcn.delivered(sender, frame, to, A if to != A else FS)
    assert vcn.records_until(A, FS) == []


def test_a_broadcast_question_reaches_only_the_peer_asked(vcn: Rig) -> None:
    question = arp(1, OF_A, A, FS)
    assert not vcn.delivered(A, question, B, FS)
    assert not vcn.delivered(A, question, FW, A)
    assert vcn.delivered(A, question, FS, A)


def test_no_way_to_the_host(vcn: Rig) -> None:
    """Frames for the host's end of the bridge are dropped and recorded; the host itself can send nothing."""
    host_mac = vcn.node(_bridge_mac, vcn.bridge.name)
    vcn[A].send(udp(A, "10.20.1.254", to_mac=host_mac))
    vcn.dropped((tap_of(A), "not-a-peer"))

    vcn.flush()
    assert _host_sends(vcn), "without rules the host's frame must arrive"
    vcn.load()
    assert not _host_sends(vcn)


@pytest.mark.parametrize("group", ["01:80:c2:00:00:00", "01:80:c2:00:00:03"], ids=["STP", "802.1X"])
def test_frames_for_the_bridge_itself_are_dropped_and_recorded(vcn: Rig, group: str) -> None:
    vcn[A].send(ether(group, OF_A, 38, bytes([0x42, 0x42, 3]) + bytes(35)))
    vcn.dropped((tap_of(A), "ethertype"))


def test_records_that_were_lost_are_told(vcn: Rig) -> None:
    vcn.limit_log(1)
    try:
        for _ in range(20):  # each new set of rules permits a burst of records
            vcn.load()
            for _ in range(20):
                vcn[A].send(ATTACKS["IPv6"][0])
    finally:
        vcn.limit_log(RECEIVE_BYTES)
    lost = vcn.lost_records(A, ATTACKS["VLAN tag"][0])
    assert lost.number is not None
    assert 0 < lost.number <= 400


def _bridge_mac(name: str) -> str:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        return str(netlink.get_links(ifname=name)[0].get("address"))


def _host_sends(vcn: Rig) -> bool:
    import socket

    frame = ether(OF_A, FOREIGN_MAC, 0x0800, ipv4(FS, A, 17, udp_header(1, 2, b"from the host")))
    raw = vcn.node(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
    with raw:
        raw.bind((vcn.bridge.name, 0))
        raw.send(frame)
    marker = b"after the host"
    vcn[FS].send(udp(FS, A, payload=marker))
    return frame in vcn[A].seen_until(marker)


def test_a_port_without_group_passes_nothing(vcn: Rig) -> None:
    """What libvirt or anybody hangs on the bridge is nobody until the agent says who it is."""
    late = port("10.20.1.12", (FW, FS))
    guest = vcn.attach(late, 0)
    try:
        assert not vcn.delivered("10.20.1.12", udp("10.20.1.12", FS), FS, A)
        vcn.dropped(("?", "unknown-port"))
    finally:
        del vcn.guests["10.20.1.12"]
        guest.close()


def test_a_port_is_added_and_removed_while_others_go_on(vcn: Rig) -> None:
    address = "10.20.1.13"
    late = port(address, (FW, FS))
    wider = Bridge(VCN.name, VCN.network, VCN.subnet, (
        port(FW, (*APPS, address), ["10.20.2.0/24"]), port(FS, (*APPS, address)), *VCN.ports[2:], late,
    ))  # fmt: skip
    guest = vcn.attach(late, port_group(late))
    try:
        assert not vcn.delivered(address, udp(address, FS), FS, A)
        vcn.load(port_added(wider, late))
        assert vcn.delivered(address, udp(address, FS), FS, A)
        assert not vcn.delivered(address, udp(address, A), A, FS)
        assert vcn.delivered(A, udp(A, FS), FS, A)
        vcn.load(port_removed(wider, late))
        assert not vcn.delivered(address, udp(address, FS), FS, A)
        assert vcn.delivered(A, udp(A, FS), FS, A)
    finally:
        del vcn.guests[address]
        guest.close()


def test_quarantine_cuts_one_port_both_ways(vcn: Rig) -> None:
    confined = VCN.ports[2]
    vcn.load(quarantine(VCN, confined))
    assert not vcn.delivered(A, udp(A, FS), FS, B)
    vcn.dropped((tap_of(A), "quarantined"))
    assert not vcn.delivered(A, arp(1, OF_A, A, FS), FS, B)
    assert not vcn.delivered(A, udp(A, BEHIND, to_mac=mac_of(FW)), FW, B)
    assert vcn.delivered(B, udp(B, FS), FS, B)
    vcn[FS].send(udp(FS, A))
    vcn.dropped((tap_of(FS), "quarantined"))
    vcn.load(release(VCN, confined))
    assert vcn.delivered(A, udp(A, FS), FS, B)


def test_nothing_illegal_passes_while_rules_are_replaced(vcn: Rig) -> None:
    """200 illegal frames during 20 replacements: none arrives, and no legal one is lost."""
    illegal, lost = udp(A, B, payload=b"illegal"), 0
    for _ in range(20):
        for _ in range(5):
            vcn[A].send(illegal)
        vcn.load()
        for _ in range(5):
            vcn[A].send(illegal)
        lost += not vcn.delivered(A, udp(A, FS), FS, A)
    vcn[FS].send(udp(FS, B, payload=b"end"))
    assert [frame for frame in vcn[B].seen_until(b"end") if b"illegal" in frame] == []
    assert lost == 0


def test_a_flood_leaves_few_records_and_hides_no_other_reason(vcn: Rig) -> None:
    for _ in range(2000):
        vcn[A].send(ATTACKS["IPv6"][0])
    vcn[A].send(ATTACKS["a foreign address"][0])
    records = vcn.records_until(A, FS)
    assert len([record for record in records if record.reason == "ipv6"]) < 200
    assert [record.reason for record in records if record.reason != "ipv6"] == ["spoofed-ip"]


@pytest.mark.parametrize("limit", [0, 64], ids=["two sets", "pairs"])
def test_ports_of_a_mesh_reach_each_other_and_nobody_else(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(bridge_rules, "MESH_PAIRS", limit)
    bridge = Bridge("b0a140100", "doctors", VCN.subnet, (
        port(A, (), mesh=True), port(B, (FS,), mesh=True), port(FS, (B,)),
    ))  # fmt: skip
    rig = Rig(f"vt{os.getpid()}m", bridge)
    try:
        rig.load()
        for frame in (udp(A, B), tcp(A, B), icmp(A, B, 8), arp(1, OF_A, A, B), arp(2, OF_A, A, B, to_mac=mac_of(B))):
            assert rig.delivered(A, frame, B, FS)
        for frame, reason in (
            (udp(FS, B, source_mac=OF_A), "spoofed-ip"),
            (udp(A, B, source_mac=FOREIGN_MAC), "spoofed-mac"),
            (arp(2, OF_A, FS, B, to_mac=mac_of(B)), "spoofed-arp"),
            (udp(A, B, ports=(68, 67)), "dhcp"),
            (icmp(A, B, 5), "icmp-redirect"),
        ):
            assert not rig.delivered(A, frame, B, FS)
            rig.dropped((tap_of(A), reason))
        assert not rig.delivered(A, udp(A, FS), FS, B)
        rig.load(quarantine(bridge, bridge.ports[0]))
        assert not rig.delivered(A, udp(A, B), B, FS)
    finally:
        rig.close()
