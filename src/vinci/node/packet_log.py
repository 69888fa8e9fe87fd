# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of frames that the bridges' rules dropped, as the kernel sends them (NFLOG), for the audit.

The rules bound how many records a port can cause (`vinci.plan.bridge_filter`); the first bytes of the frame come
with each. Which port it was and why are told by the rules; whatever the frame itself says is the guest's word.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from pyroute2.netlink import NETLINK_NETFILTER, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, nla
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_ULOG, nfgen_msg

from vinci.plan.bridge_filter import LOGGED_BYTES, NFLOG_GROUP, REASON_MARKS, UNKNOWN_PORT_NAME, DropReason

RECEIVE_BYTES = 1 << 20
_MESSAGE_BYTES = 1 << 16
_PACKET, _CONFIG = NFNL_SUBSYS_ULOG << 8 | 0, NFNL_SUBSYS_ULOG << 8 | 1
_BIND, _COPY_PACKET, _NUMBERED = 1, 2, 1
_ETHER_IPV4, _ETHER_ARP, _ETHER_VLANS = 0x0800, 0x0806, frozenset({0x8100, 0x88A8, 0x9100})
_PORTED = {6: "tcp", 17: "udp"}
_REASONS = {mark: reason for reason, mark in REASON_MARKS.items()}


@dataclass(frozen=True, slots=True)
class DroppedFrame:
    """One dropped frame. `port` and `reason` are facts; the rest is what the frame claimed, None where it did not."""

    port: str
    reason: DropReason
    source_mac: str
    to_mac: str
    ethertype: int
    vlan: int | None = None
    source: IPv4Address | None = None
    to: IPv4Address | None = None
    protocol: str | None = None
    to_port: int | None = None


@dataclass(frozen=True, slots=True)
class LostRecords:
    """The kernel had more records than could be read in time; `number` is None when it does not tell how many."""

    number: int | None


class _Record(nfgen_msg):  # type: ignore[misc]
    """A record (enum nfulnl_attr_type in linux/netfilter/nfnetlink_log.h)."""

    prefix = "NFULA_"
    nla_map = (
        ("NFULA_UNSPEC", "none"),
        ("NFULA_PACKET_HDR", "hex"),
        ("NFULA_MARK", "be32"),
        ("NFULA_TIMESTAMP", "hex"),
        ("NFULA_IFINDEX_INDEV", "be32"),
        ("NFULA_IFINDEX_OUTDEV", "be32"),
        ("NFULA_IFINDEX_PHYSINDEV", "be32"),
        ("NFULA_IFINDEX_PHYSOUTDEV", "be32"),
        ("NFULA_HWADDR", "hex"),
        ("NFULA_PAYLOAD", "cdata"),
        ("NFULA_PREFIX", "asciiz"),
        ("NFULA_UID", "be32"),
        ("NFULA_SEQ", "be32"),
        ("NFULA_SEQ_GLOBAL", "be32"),
        ("NFULA_GID", "be32"),
        ("NFULA_HWTYPE", "be16"),
        ("NFULA_HWHEADER", "cdata"),
        ("NFULA_HWLEN", "be16"),
        ("NFULA_CT", "hex"),
        ("NFULA_CT_INFO", "be32"),
        ("NFULA_VLAN", "Vlan"),
        ("NFULA_L2HDR", "cdata"),
    )

    class Vlan(nla):  # type: ignore[misc]
        """The tag that the kernel took out of the frame."""

        prefix = "NFULA_VLAN_"
        nla_map = (("NFULA_VLAN_UNSPEC", "none"), ("NFULA_VLAN_PROTO", "be16"), ("NFULA_VLAN_TCI", "be16"))


class _Configuration(nfgen_msg):  # type: ignore[misc]
    """A request about a log group (enum nfulnl_attr_config)."""

    prefix = "NFULA_CFG_"
    nla_map = (
        ("NFULA_CFG_UNSPEC", "none"),
        ("NFULA_CFG_CMD", "uint8"),
        ("NFULA_CFG_MODE", "Mode"),
        ("NFULA_CFG_NLBUFSIZ", "be32"),
        ("NFULA_CFG_TIMEOUT", "be32"),
        ("NFULA_CFG_QTHRESH", "be32"),
        ("NFULA_CFG_FLAGS", "be16"),
    )

    class Mode(nla):  # type: ignore[misc]
        """How much of each packet is copied."""

        fields = (("range", ">I"), ("mode", "B"), ("pad", "B"))


class _Marshal(Marshal):  # type: ignore[misc]
    msg_map = {_PACKET: _Record}  # noqa: RUF012 (pyroute2's own declaration)


class PacketLog:
    """The dropped frames of the namespace in which it is made; one reader a namespace."""

    def __init__(self) -> None:
        """Start to listen.

        Raises:
            OSError: somebody listens already, or the kernel has no NFLOG.
        """
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._expected: int | None = None
        self._marshal = _Marshal()
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            self._socket.settimeout(5)
            self._configure(("NFULA_CFG_CMD", _BIND))
            self._configure(("NFULA_CFG_MODE", {"range": LOGGED_BYTES, "mode": _COPY_PACKET, "pad": 0}))
            # Each record at once: they are few, and the audit is to be followed live.
            self._configure(("NFULA_CFG_QTHRESH", 1))
            self._configure(("NFULA_CFG_FLAGS", _NUMBERED))
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    async def records(self) -> AsyncIterator[DroppedFrame | LostRecords]:
        """Each record as it comes, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._socket, _MESSAGE_BYTES)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue  # the gap in the numbers tells how many were lost
            for record in self._parse(data):
                yield record

    def _configure(self, attribute: tuple[str, object]) -> None:
        request = _Configuration()
        request["header"]["type"] = _CONFIG
        request["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
        request["nfgen_family"], request["version"], request["res_id"] = 0, 0, NFLOG_GROUP
        request["attrs"] = [attribute]
        request.encode()
        self._socket.send(request.data)
        answer = self._socket.recv(_MESSAGE_BYTES)
        length, kind, _flags, _sequence, _process, status = struct.unpack_from("=IHHIIi", answer)
        if length >= 20 and kind == NLMSG_ERROR and status != 0:
            raise OSError(-status, f"the kernel refuses records of dropped frames ({attribute[0]})")

    def _parse(self, data: bytes) -> Iterator[DroppedFrame | LostRecords]:
        for message in self._marshal.parse(data):
            if message["header"]["type"] != _PACKET:
                continue
            number = message.get_attr("NFULA_SEQ")
            if number is not None:
                if self._expected is not None and number != self._expected:
                    yield LostRecords((number - self._expected) & 0xFFFFFFFF)
                self._expected = (number + 1) & 0xFFFFFFFF
            yield _dropped_frame(message)


def _dropped_frame(message: Any) -> DroppedFrame:
    prefix = message.get_attr("NFULA_PREFIX") or UNKNOWN_PORT_NAME
    port = prefix.decode(errors="replace") if isinstance(prefix, bytes) else str(prefix)
    reason = _REASONS.get(message.get_attr("NFULA_MARK") or 0, DropReason.UNKNOWN_PORT)
    untrusted_header = bytes(message.get_attr("NFULA_L2HDR") or message.get_attr("NFULA_HWHEADER") or b"")
    untrusted_payload = bytes(message.get_attr("NFULA_PAYLOAD") or b"")[:LOGGED_BYTES]
    tag = message.get_attr("NFULA_VLAN")
    vlan = tag.get_attr("NFULA_VLAN_TCI") if tag is not None else None
    return describe_frame(port.rstrip("\0"), reason, untrusted_header, untrusted_payload, vlan)


def describe_frame(
    port: str, reason: DropReason, untrusted_header: bytes, untrusted_payload: bytes, tag: int | None = None
) -> DroppedFrame:
    """What a frame claims, read from its Ethernet header and the first bytes after it. Never fails, however broken."""
    header = untrusted_header.ljust(14, b"\0")
    ethertype = int.from_bytes(header[12:14])
    vlan = tag & 0xFFF if tag is not None else None
    if ethertype in _ETHER_VLANS:
        # The tag came in the frame's bytes: behind the header, or as its last four.
        inner = (header[14:] + untrusted_payload)[:4].ljust(4, b"\0")
        vlan = int.from_bytes(inner[:2]) & 0xFFF
    claims = _claims(ethertype, untrusted_payload)
    return DroppedFrame(port, reason, header[6:12].hex(":"), header[:6].hex(":"), ethertype, vlan, *claims)


def _claims(ethertype: int, untrusted: bytes) -> tuple[IPv4Address | None, IPv4Address | None, str | None, int | None]:
    """Source, target, protocol and target port that an ARP or IPv4 packet claims."""
    if ethertype == _ETHER_ARP and len(untrusted) >= 28:
        return IPv4Address(untrusted[14:18]), IPv4Address(untrusted[24:28]), "arp", None
    if ethertype != _ETHER_IPV4 or len(untrusted) < 20:
        return None, None, None, None
    source, to = IPv4Address(untrusted[12:16]), IPv4Address(untrusted[16:20])
    start, protocol = (untrusted[0] & 0xF) * 4, untrusted[9]
    first_fragment = int.from_bytes(untrusted[6:8]) & 0x1FFF == 0
    if protocol not in _PORTED or not first_fragment or start < 20 or len(untrusted) < start + 4:
        return source, to, _PORTED.get(protocol, "icmp" if protocol == 1 else str(protocol)), None
    return source, to, _PORTED[protocol], int.from_bytes(untrusted[start + 2 : start + 4])
