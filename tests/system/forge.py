# SPDX-License-Identifier: GPL-2.0-or-later
"""Run as root in an APP-VM with the guest's own Python: sends one forged frame, or opens a connection.

forge.py KIND OWN-MAC OWN-ADDRESS GATEWAY-MAC TARGET-ADDRESS
"""

import socket
import struct
import sys

BROADCAST = b"\xff" * 6


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip(text: str) -> bytes:
    return socket.inet_aton(text)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, ip(source), ip(target))
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def udp(source: int, target: int, payload: bytes = b"forged") -> bytes:
    return struct.pack(">HHHH", source, target, 8 + len(payload), 0) + payload


def arp(operation: int, sender_mac: bytes, sender: str, target_mac: bytes, target: str) -> bytes:
    return struct.pack(">HHBBH6s4s6s4s", 1, 0x800, 6, 4, operation, sender_mac, ip(sender), target_mac, ip(target))


def frame(kind: str, own_mac: str, own: str, gateway_mac: str, target: str) -> bytes:
    me, gateway = mac(own_mac), mac(gateway_mac)
    other = own.rsplit(".", 1)[0] + ".77"
    to = ipv4(own, target, 17, udp(4000, 4000))
    v6_group = mac("33:33:00:00:00:01") + me + b"\x86\xdd"
    return {
        "ip": lambda: gateway + me + b"\x08\x00" + ipv4(other, target, 17, udp(4000, 4000)),
        "mac": lambda: gateway + mac("02:56:0a:14:01:63") + b"\x08\x00" + to,
        "arp-sender": lambda: BROADCAST + me + b"\x08\x06" + arp(2, me, target, BROADCAST, target),
        "arp-request": lambda: BROADCAST + me + b"\x08\x06" + arp(1, me, other, b"\0" * 6, target),
        "ipv6": lambda: v6_group + struct.pack(">IHBB", 6 << 28, 0, 59, 1) + b"\0" * 32,
        "router-advertisement": lambda: (
            v6_group + struct.pack(">IHBB", 6 << 28, 8, 58, 255) + b"\xfe\x80" + b"\0" * 30 + b"\x86" + b"\0" * 7
        ),
        "vlan": lambda: gateway + me + b"\x81\x00\x00\x05\x08\x00" + to,
        "qinq": lambda: gateway + me + b"\x88\xa8\x00\x05\x81\x00\x00\x05\x08\x00" + to,
        "ethertype": lambda: gateway + me + b"\x88\xb5" + b"\0" * 46,
        "dhcp": lambda: BROADCAST + me + b"\x08\x00" + ipv4(own, "255.255.255.255", 17, udp(67, 68)),
        "broadcast": lambda: BROADCAST + me + b"\x08\x00" + ipv4(own, "255.255.255.255", 17, udp(4000, 4000)),
        "foreign": lambda: gateway + me + b"\x08\x00" + to,
    }[kind]()  # fmt: skip


def main() -> None:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("eth0", 0))
    for _ in range(3):
        link.send(frame(*sys.argv[1:6]).ljust(60, b"\0"))


if __name__ == "__main__":
    main()
