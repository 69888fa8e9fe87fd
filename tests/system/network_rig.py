# SPDX-License-Identifier: GPL-2.0-or-later
"""A node's bridge with network namespaces in the place of VMs: raw frames in, raw frames out, drops recorded.

Ports are veth ends named and grouped like taps but with none of the port flags of `vinci.node.network`: what holds a
frame back here are the rules alone.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute, netns

from vinci.node.network import ensure_namespace, remove_namespace
from vinci.node.packet_log import DroppedFrame, LostRecords, PacketLog
from vinci.node.rules import Rules
from vinci.plan.bridge_rules import bridge_ruleset, port_group
from vinci.plan.types import Bridge, Port

T = TypeVar("T")
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
BROADCAST = "ff:ff:ff:ff:ff:ff"
EVENT_SECONDS = 10.0
FORWARDING = 3  # BR_STATE_FORWARDING of linux/if_bridge.h
NO_RULES = {"nftables": [{"flush": {"ruleset": None}}]}
NO_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")


def mac_of(address: str) -> str:
    return "02:56:" + IPv4Address(address).packed.hex(":")


def tap_of(address: str) -> str:
    return "v" + IPv4Address(address).packed.hex()


def port(address: str, peers: Iterable[str], routed: Iterable[str] = (), *, mesh: bool = False) -> Port:
    networks = tuple(IPv4Network(network) for network in routed)
    return Port(tap_of(address), mac_of(address), IPv4Address(address), tuple(map(tap_of, peers)), networks, mesh)


def apply(ruleset: dict[str, Any]) -> None:
    """Applies rules in the calling thread's namespace."""
    Rules().apply(ruleset)


class InNamespace:
    """A thread that lives in a network namespace."""

    def __init__(self, name: str) -> None:
        ensure_namespace(name)
        self.name = name
        self._thread = ThreadPoolExecutor(1, initializer=lambda: netns.setns(name, flags=0))

    def __call__(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return self._thread.submit(function, *arguments, **named).result()

    def close(self) -> None:
        self._thread.shutdown()
        remove_namespace(self.name)


class Guest:
    """What root in a VM can do: send any bytes, see any bytes that arrive."""

    def __init__(self, name: str, address: str) -> None:
        self.address, self.mac, self.tap = address, mac_of(address), tap_of(address)
        self.inside = InNamespace(name)
        self.socket: socket.socket

    def listen(self) -> None:
        self.socket = self.inside(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind(("eth0", ETH_P_ALL))
        self.socket.settimeout(EVENT_SECONDS)

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def seen_until(self, marker: bytes) -> list[bytes]:
        """The frames that arrived before one that contains the marker."""
        seen = []
        while True:
            frame, origin = self.socket.recvfrom(65535)
            if origin[2] == PACKET_OUTGOING:
                continue
            if marker in frame:
                return seen
            seen.append(frame)

    def close(self) -> None:
        self.socket.close()
        self.inside.close()


class Rig:
    """A node namespace with one bridge and a guest per port."""

    def __init__(self, name: str, bridge: Bridge) -> None:
        self.bridge = bridge
        self.node = InNamespace(name)
        self.guests: dict[str, Guest] = {}
        self._markers = 0
        try:
            self.node(self._make_bridge)
            self.log = self.node(PacketLog)
            for each in bridge.ports:
                self.attach(each, port_group(each))
        except BaseException:
            self.close()
            raise

    def _make_bridge(self) -> None:
        for name in ("iptables", "ip6tables", "arptables"):
            Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}").write_text("0")
        NO_IPV6.write_text("1")
        with IPRoute() as netlink:
            # Nothing is learnt, so each frame is tried at every port: the rules have to hold it back everywhere.
            netlink.link("add", ifname=self.bridge.name, kind="bridge", br_mcast_snooping=0, br_ageing_time=0)
            index = netlink.link_lookup(ifname=self.bridge.name)[0]
            netlink.link("set", index=index, state="up")
        self.bridge_index = index

    def attach(self, each: Port, group: int) -> Guest:
        guest = Guest(f"{self.node.name}-{each.address}", str(each.address))
        self.guests[str(each.address)] = guest
        self.node(self._wire, each, guest, group)
        guest.inside(_bring_up)
        self.node(_wait_until_forwarding, each.tap)
        guest.listen()
        return guest

    def _wire(self, each: Port, guest: Guest, group: int) -> None:
        with IPRoute() as netlink:
            peer = {"ifname": "eth0", "net_ns_fd": guest.inside.name, "address": each.mac}
            netlink.link("add", ifname=each.tap, kind="veth", peer=peer)
            index = netlink.link_lookup(ifname=each.tap)[0]
            netlink.link("set", index=index, master=self.bridge_index, group=group, state="up")

    def load(self, ruleset: dict[str, Any] | None = None) -> None:
        self.node(apply, ruleset or bridge_ruleset([self.bridge]))

    def flush(self) -> None:
        """No rules at all."""
        self.node(apply, NO_RULES)

    def __getitem__(self, address: str) -> Guest:
        return self.guests[address]

    def delivered(self, sender: str, frame: bytes, to: str, witness: str) -> bool:
        """Whether a frame sent by one guest arrives at another; the witness is a peer of the latter."""
        self._markers += 1
        marker = b"marker %d" % self._markers
        self[sender].send(frame)
        self[witness].send(udp(witness, to, payload=marker))
        return any(_untagged(frame) == _untagged(arrived) for arrived in self[to].seen_until(marker))

    def dropped(self, wanted: tuple[str, str], count: int = 1) -> list[DroppedFrame]:
        """Waits for records of drops on (port, reason); other records before them are passed over."""

        async def wait() -> list[DroppedFrame]:
            found: list[DroppedFrame] = []
            async for record in self.log.records():
                if isinstance(record, DroppedFrame) and (record.port, record.reason.value) == wanted:
                    found.append(record)
                    if len(found) == count:
                        break
            return found

        return asyncio.run(asyncio.wait_for(wait(), EVENT_SECONDS))

    def limit_log(self, size: int) -> None:
        """Give the log's socket so many bytes for records that wait."""
        self.log._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def lost_records(self, sender: str, frame: bytes) -> LostRecords:
        """Reads until the log tells that records were lost: by the first record after its socket was emptied."""

        async def wait() -> LostRecords:
            records = self.log.records()
            while True:
                self[sender].send(frame)
                record = await anext(records)
                if isinstance(record, LostRecords):
                    return record

        return asyncio.run(asyncio.wait_for(wait(), EVENT_SECONDS))

    def records_until(self, sender: str, to: str) -> list[DroppedFrame]:
        """All records before that of a frame which the rules drop for sure (a LLDP frame of the sender)."""
        self[sender].send(ether(mac_of(to), mac_of(sender), 0x88CC, b"until"))

        async def wait() -> list[DroppedFrame]:
            found: list[DroppedFrame] = []
            async for record in self.log.records():
                if isinstance(record, DroppedFrame):
                    if record.ethertype == 0x88CC and record.port == tap_of(sender):
                        break
                    found.append(record)
            return found

        return asyncio.run(asyncio.wait_for(wait(), EVENT_SECONDS))

    def close(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
        for guest in self.guests.values():
            guest.close()
        self.node.close()


def _wait_until_forwarding(tap: str) -> None:
    """The bridge takes a port into service when it hears of its carrier, on a busy machine some time after."""
    deadline = time.monotonic() + EVENT_SECONDS
    with IPRoute() as netlink:
        (index,) = netlink.link_lookup(ifname=tap)
        while time.monotonic() < deadline:
            (link,) = netlink.get_links(index)
            port = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_SLAVE_DATA")
            if port.get_attr("IFLA_BRPORT_STATE") == FORWARDING:
                return
            time.sleep(0.01)
    raise TimeoutError(f"port {tap} does not forward")


def _bring_up() -> None:
    NO_IPV6.write_text("1")
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        # The namespace's own stack stays silent: only the tests speak.
        netlink.link("set", index=index, state="up", arp=False)
        deadline = time.monotonic() + EVENT_SECONDS
        while netlink.get_links(index)[0].get("operstate") != "UP":
            if time.monotonic() > deadline:
                raise TimeoutError("eth0 does not come up")


# Frames ---------------------------------------------------------------------------------------------------------------


def _untagged(frame: bytes) -> bytes:
    """A frame without its VLAN tags and padding: a receiving socket gets the outer tag beside the frame."""
    while frame[12:14] in (b"\x81\x00", b"\x88\xa8"):
        frame = frame[:12] + frame[16:]
    return frame.rstrip(b"\0")


def ether(to: str, source: str, kind: int, payload: bytes, tags: Iterable[tuple[int, int]] = ()) -> bytes:
    """An Ethernet frame; `tags` are (ethertype of the tag, VLAN id), outermost first."""
    header = bytes.fromhex(to.replace(":", "") + source.replace(":", ""))
    for tag, vlan in tags:
        header += struct.pack("!HH", tag, vlan)
    return (header + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def ipv4(source: str, to: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0,
        IPv4Address(source).packed, IPv4Address(to).packed,
    )  # fmt: skip
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + payload


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_header(source_port: int, to_port: int, payload: bytes = b"hello") -> bytes:
    return struct.pack("!HHHH", source_port, to_port, 8 + len(payload), 0) + payload


def udp(
    source: str,
    to: str,
    *,
    ports: tuple[int, int] = (4000, 5000),
    payload: bytes = b"hello",
    source_mac: str | None = None,
    to_mac: str | None = None,
) -> bytes:
    packet = ipv4(source, to, 17, udp_header(*ports, payload))
    return ether(to_mac or mac_of(to), source_mac or mac_of(source), 0x0800, packet)


def tcp(source: str, to: str, ports: tuple[int, int] = (4000, 5000), flags: int = 0x02) -> bytes:
    segment = struct.pack("!HHIIBBHHH", *ports, 1, 0, 0x50, flags, 1024, 0, 0)
    return ether(mac_of(to), mac_of(source), 0x0800, ipv4(source, to, 6, segment))


def icmp(source: str, to: str, kind: int, to_mac: str | None = None) -> bytes:
    return ether(to_mac or mac_of(to), mac_of(source), 0x0800, ipv4(source, to, 1, struct.pack("!BBHI", kind, 0, 0, 0)))


def arp(
    operation: int,
    sender_mac: str,
    sender: str,
    target: str,
    *,
    to_mac: str = BROADCAST,
    source_mac: str | None = None,
    kind: tuple[int, int, int, int] = (1, 0x0800, 6, 4),
) -> bytes:
    """An ARP packet; `kind` says for which hardware, which protocol, and how long the addresses of both are."""
    packet = struct.pack("!HHBBH", *kind, operation)
    packet += bytes.fromhex(sender_mac.replace(":", "")) + IPv4Address(sender).packed + bytes(6)
    return ether(to_mac, source_mac or sender_mac, 0x0806, packet + IPv4Address(target).packed)
