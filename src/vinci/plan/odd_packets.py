# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets to ask rules about, beside the first one of a flow: by what conntrack makes of them, ICMP, IPv6."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Fields = dict[str, Any]
"""Fields of a packet by name, as `vinci.policy.readback_rules` reads them."""
ICMP_ERRORS = ("destination-unreachable", "time-exceeded", "parameter-problem")
"""What may be said of a packet of a permitted flow (RFC 792)."""
_PORTS = (("sport", 40_000), ("dport", 22))

OPENING: Fields = {"ct state": "new", "ct direction": "original", "tcp flags": frozenset({"syn"})}
FURTHER: Fields = {"ct state": "established", "ct direction": "original", "tcp flags": frozenset({"ack"})}
ANSWER: Fields = {"ct state": "established", "ct direction": "reply", "tcp flags": frozenset({"syn", "ack"})}
RELATED: Fields = {"ct state": "related", "ct direction": "original", "tcp flags": frozenset({"syn"})}
UNASKED: Fields = {"ct state": "new", "ct direction": "original", "tcp flags": frozenset({"syn", "ack"})}
TAKEN_UP: Fields = {"ct state": "new", "ct direction": "original", "tcp flags": frozenset({"ack"})}


def messages() -> Iterator[tuple[str, Fields, bool]]:
    """ICMP by what it says; true for errors about a followed connection. Addresses are the caller's."""
    base: Fields = {"meta l4proto": "icmp", "meta nfproto": "ipv4", "ct direction": "original"}
    for kind in ICMP_ERRORS:
        yield f"ICMP {kind} of a followed connection", {**base, "icmp type": kind, "ct state": "related"}, True
        yield f"ICMP {kind} of nothing", {**base, "icmp type": kind, "ct state": "invalid"}, False
    yield "ICMP redirect", {**base, "icmp type": "redirect", "ct state": "related"}, False
    yield "ICMP echo-request", {**base, "icmp type": "echo-request", "ct state": "new"}, False
    reply = {**base, "icmp type": "echo-reply", "ct state": "established", "ct direction": "reply"}
    yield "ICMP echo-reply", reply, False


def ipv6_packets() -> Iterator[tuple[str, Fields]]:
    """What IPv6 would be; nothing of it is ever declared."""
    base: Fields = {"meta nfproto": "ipv6", "meta l4proto": "tcp", "ip6 saddr": "fe80::1", "ip6 daddr": "fe80::2"}
    ports = {f"{layer} {end}": port for layer in ("tcp", "th") for end, port in _PORTS}
    for what, state in (("an opening packet", OPENING), ("a further packet", FURTHER), ("an answer", ANSWER)):
        yield f"{what} of IPv6", {**base, **ports, **state}
    icmp = {**base, "meta l4proto": "ipv6-icmp", "icmpv6 type": "destination-unreachable", "ct state": "related"}
    yield "ICMPv6", icmp
