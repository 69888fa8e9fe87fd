# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bridges' rules cost: small packets a second between two ports, and the time to change one VM.

    sudo .venv/bin/python bench/bridge_rules.py [--rounds 12] [--sizes 10,100,1000] [--mesh] [--json FILE]

One run compares, interleaved, each rule scheme with no rules right before it, so that the ratio bears a busy machine:
  none              no rules on the bridge
  ours              vinci.plan.bridge_rules (nftables, bridge family)
  pairs-nft         the paper's one rule per legal ordered pair, nftables' bridge family, walked through in turn
  pairs-ebtables    the same by ebtables (here ebtables-nft: translated to nftables)
  pairs-iptables    the same by iptables-legacy's physdev match, nearest to the original of 2009
  nwfilter          chains per port as libvirt's nwfilter makes them (clean-traffic), nftables' bridge family
A VCN has two service VMs and the rest APP-VMs that reach only those; the measured APP-VM is the middle one. With --mesh
the APP-VMs reach each other too (`peers: all`), and the last two are measured, by our rules only: they are no pair
where the mesh is large.
Traffic is UDP with 18 bytes of payload through the whole stack of two namespaces on two veths, either way. A rate is
packets a second of the sending thread's processor time: the kernel carries each frame up to the receiving socket in
that time, and unlike the clock it does not count what else runs on the machine. Best of some bursts of 5,120
packets, medians over the rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from nftables import Nftables
from pyroute2 import IPRoute, netns

from vinci.node.network import ensure_namespace, remove_namespace
from vinci.node.rules import Rules
from vinci.plan.bridge_rules import bridge_ruleset, difference, port_group
from vinci.plan.types import Bridge, Port

PORT = 9999
PAYLOAD = b"x" * 18
BATCH, BATCHES, BURSTS = 256, 20, 6
FIRST = int(IPv4Address("10.16.0.0"))


def vcn(size: int, mesh: bool) -> Bridge:
    """A VCN of `size` VMs: FW-VM and FS-VM, and APP-VMs that may reach these two, and each other in a mesh."""
    addresses = [IPv4Address(FIRST + number + 1) for number in range(size)]
    taps = [f"v{int(address):08x}" for address in addresses]
    ports = []
    for number, address in enumerate(addresses):
        peers = tuple(taps[2:]) if number < 2 else tuple(taps[:2])
        routed = (IPv4Network("10.32.0.0/16"),) if number == 0 else ()
        mac = "02:56:" + address.packed.hex(":")
        ports.append(Port(taps[number], mac, address, peers, routed, mesh=mesh and number >= 2))
    return Bridge("b0a100000", "bench", IPv4Network("10.16.0.0/12"), tuple(ports))


def legal_pairs(bridge: Bridge) -> Iterator[tuple[Port, Port]]:
    ports = {port.tap: port for port in bridge.ports}
    for port in bridge.ports:
        for peer in port.peers:
            yield port, ports[peer]


# The schemes ----------------------------------------------------------------------------------------------------------


def nft_text(text: str) -> None:
    nft = Nftables()
    status, _output, error = nft.cmd(text)
    if status != 0:
        raise RuntimeError(error[:500])


def run(*command: str, text: str | None = None) -> None:
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)


def ours(bridge: Bridge) -> None:
    Rules().apply(bridge_ruleset([bridge]))


def pairs_nft(bridge: Bridge) -> None:
    rules = "\n".join(
        f"iifname {a.tap} oifname {b.tap} ether saddr {a.mac} ip saddr {a.address} ip daddr {b.address} accept"
        for a, b in legal_pairs(bridge)
    )
    chain = "chain forward { type filter hook forward priority -200; policy drop;"
    nft_text(f"table bridge bench {{ {chain}\n{rules}\n}}\n}}")


def pairs_ebtables(bridge: Bridge) -> None:
    rules = "\n".join(
        f"-A FORWARD -p IPv4 -i {a.tap} -o {b.tap} -s {a.mac} --ip-src {a.address} --ip-dst {b.address} -j ACCEPT"
        for a, b in legal_pairs(bridge)
    )
    run("ebtables-nft-restore", text=f"*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n{rules}\n")


def pairs_iptables(bridge: Bridge) -> None:
    rules = "\n".join(
        f"-A FORWARD -m physdev --physdev-in {a.tap} --physdev-out {b.tap} -m mac --mac-source {a.mac}"
        f" -s {a.address} -d {b.address} -j ACCEPT"
        for a, b in legal_pairs(bridge)
    )
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")
    run("iptables-legacy-restore", text=f"*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n{rules}\nCOMMIT\n")


def nwfilter(bridge: Bridge) -> None:
    chains, jumps_in, jumps_out = [], [], []
    for port in bridge.ports:
        tap = port.tap
        chains.append(f"chain mac_{tap} {{ ether saddr {port.mac} return; drop; }}")
        chains.append(f"chain ip_{tap} {{ ip saddr {port.address} return; drop; }}")
        chains.append(f"chain arp_{tap} {{ arp saddr ether {port.mac} arp saddr ip {port.address} return; drop; }}")
        protocols = f"ether type ip jump ip_{tap}; ether type arp jump arp_{tap};"
        chains.append(f"chain in_{tap} {{ jump mac_{tap}; {protocols} ether type {{ ip, arp }} accept; drop; }}")
        chains.append(f"chain out_{tap} {{ ether type {{ ip, arp }} accept; drop; }}")
        jumps_in.append(f"iifname {tap} jump in_{tap}")
        jumps_out.append(f"oifname {tap} jump out_{tap}")
    nft_text(
        "table bridge bench {\n"
        + "\n".join(chains)
        + "\nchain pre { type filter hook prerouting priority -300;\n" + "\n".join(jumps_in) + "\n}\n"
        + "chain post { type filter hook postrouting priority -300;\n" + "\n".join(jumps_out) + "\n}\n}"
    )  # fmt: skip


def none(_bridge: Bridge) -> None:
    pass


SCHEMES: dict[str, Callable[[Bridge], None]] = {
    "none": none,
    "ours": ours,
    "pairs-nft": pairs_nft,
    "pairs-ebtables": pairs_ebtables,
    "pairs-iptables": pairs_iptables,
    "nwfilter": nwfilter,
}
NEEDS = {"pairs-ebtables": "ebtables-nft-restore", "pairs-iptables": "iptables-legacy-restore"}


def clear() -> None:
    nft_text("flush ruleset")
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("0")
    if shutil.which("iptables-legacy-restore"):
        run("iptables-legacy-restore", text="*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n")


# Traffic --------------------------------------------------------------------------------------------------------------


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("vectors", ctypes.POINTER(_Vector)),
        ("number", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )  # fmt: skip


class _Message(ctypes.Structure):
    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


class Sender:
    """Sends small datagrams as fast as one core can, many a system call."""

    def __init__(self, made: socket.socket) -> None:
        self._socket = made
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._buffer = ctypes.create_string_buffer(PAYLOAD, len(PAYLOAD))
        self._vector = _Vector(ctypes.addressof(self._buffer), len(PAYLOAD))
        self._messages = (_Message * BATCH)()
        for message in self._messages:
            message.header.vectors = ctypes.pointer(self._vector)
            message.header.number = 1

    def send(self, batches: int) -> float:
        """Seconds of this thread's processor time that it took."""
        started = time.thread_time()
        for _ in range(batches):
            if self._libc.sendmmsg(self._socket.fileno(), self._messages, BATCH, 0) != BATCH:
                raise OSError(ctypes.get_errno(), "sendmmsg")
        return time.thread_time() - started


class Namespace:
    """A thread inside a network namespace of our own."""

    def __init__(self, name: str) -> None:
        ensure_namespace(name)
        self.name = name
        self._thread = ThreadPoolExecutor(1, initializer=lambda: netns.setns(name, flags=0))

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._thread.submit(function, *arguments).result()

    def close(self) -> None:
        self._thread.shutdown()
        remove_namespace(self.name)


@dataclass
class End:
    """One of the two ports that exchange traffic."""

    inside: Namespace
    port: Port

    def received(self) -> int:
        return int(self.inside(_received))


def _received() -> int:
    with IPRoute() as netlink:
        return int(netlink.get_links(ifname="eth0")[0].get("stats64")["rx_packets"])


def _prepare_end(own: Port, other: Port) -> None:
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.link("set", index=index, state="up")
        netlink.addr("add", index=index, address=str(own.address), prefixlen=12)
        netlink.neigh("add", dst=str(other.address), lladdr=other.mac, ifindex=index, state=0x80)


def _prepare_bridge(bridge: Bridge, ends: list[End]) -> None:
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    for name in ("iptables", "ip6tables", "arptables"):
        Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}").write_text("0")
    with IPRoute() as netlink:
        netlink.link("add", ifname=bridge.name, kind="bridge", br_mcast_snooping=0)
        master = netlink.link_lookup(ifname=bridge.name)[0]
        netlink.link("set", index=master, state="up")
        for end in ends:
            peer = {"ifname": "eth0", "net_ns_fd": end.inside.name, "address": end.port.mac}
            netlink.link("add", ifname=end.port.tap, kind="veth", peer=peer)
            index = netlink.link_lookup(ifname=end.port.tap)[0]
            netlink.link("set", index=index, master=master, group=port_group(end.port), state="up")
            netlink.brport("set", index=index, learning=0, unicast_flood=0)
            netlink.fdb("replace", ifindex=index, lladdr=end.port.mac, state=0x40, flags=0x04)


def _sender(to: IPv4Address) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect((str(to), PORT))
    return made


def _receiver() -> socket.socket:
    """Takes the datagrams and lets them go when its small buffer is full: the path ends in a socket, as it should."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    made.bind(("0.0.0.0", PORT))
    return made


@contextmanager
def two_ends(bridge: Bridge) -> Iterator[tuple[Namespace, list[End]]]:
    """The bridge with the FS-VM's port and that of the middle APP-VM, or with the last two of a mesh."""
    prefix = f"bench{os.getpid()}"
    middle = bridge.ports[2 + (len(bridge.ports) - 2) // 2]
    chosen = bridge.ports[-2:] if middle.mesh else (bridge.ports[1], middle)
    node = Namespace(prefix)
    ends = [End(Namespace(f"{prefix}-{number}"), port) for number, port in enumerate(chosen)]
    try:
        node(_prepare_bridge, bridge, ends)
        for end, other in zip(ends, reversed(ends), strict=True):
            end.inside(_prepare_end, end.port, other.port)
        yield node, ends
    finally:
        for end in ends:
            end.inside.close()
        node.close()


# Measuring ------------------------------------------------------------------------------------------------------------


def rate(sender: Sender, to: End) -> float:
    """Packets a second that arrive: the best of some short bursts, so that interruptions count little."""
    sender.send(5)
    return max(_burst(sender, to) for _ in range(BURSTS))


def _burst(sender: Sender, to: End) -> float:
    before = to.received()
    took = sender.send(BATCHES)
    arrived = to.received() - before
    if arrived > BATCH * BATCHES:
        raise RuntimeError(f"{arrived} packets arrived of {BATCH * BATCHES}: somebody else sends too")
    return arrived / took


def measure_rates(bridge: Bridge, schemes: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """For each scheme: median rate, median of its ratio to no rules right before it, time to load."""
    ratios: dict[str, dict[str, list[float]]] = {name: {"to": [], "from": []} for name in schemes}
    rates: dict[str, list[float]] = {name: [] for name in schemes}
    loads: dict[str, list[float]] = {name: [] for name in schemes}
    with two_ends(bridge) as (node, ends):
        receivers = [end.inside(_receiver) for end in ends]
        senders = [Sender(end.inside(_sender, other.port.address)) for end, other in zip(ends, ends[::-1], strict=True)]
        ways = {"to": (senders[1], ends[0]), "from": (senders[0], ends[1])}
        for number in range(rounds):
            order = schemes[number % len(schemes) :] + schemes[: number % len(schemes)]
            for name in order:
                node(clear)
                bare = {way: rate(*ends_of) for way, ends_of in ways.items()}
                started = time.perf_counter()
                node(SCHEMES[name], bridge)
                loads[name].append(time.perf_counter() - started)
                for way, ends_of in ways.items():
                    measured = rate(*ends_of)
                    rates[name].append(measured)
                    ratios[name][way].append(measured / bare[way])
        node(clear)
        for receiver in receivers:
            receiver.close()
    return {
        name: {
            "packets_per_second": statistics.median(rates[name]),
            "ratio_to_services": statistics.median(ratios[name]["to"]),
            "ratio_from_services": statistics.median(ratios[name]["from"]),
            "load_ms": statistics.median(loads[name]) * 1000,
        }
        for name in schemes
    }


def measure_changes(bridge: Bridge, rounds: int) -> dict[str, float]:
    """Milliseconds to add and to remove the last VM while the others' rules are in force, as the agent does it."""
    gone = bridge.ports[-1].tap
    smaller = replace(
        bridge,
        ports=tuple(replace(port, peers=tuple(tap for tap in port.peers if tap != gone)) for port in bridge.ports[:-1]),
    )
    times: dict[str, list[float]] = {"add_ms": [], "remove_ms": []}
    node = Namespace(f"bench{os.getpid()}")
    try:
        rules = node(Rules)
        node(rules.apply, bridge_ruleset([smaller]))
        for _ in range(rounds):
            for name, before, after in (("add_ms", smaller, bridge), ("remove_ms", bridge, smaller)):
                started = time.perf_counter()
                node(rules.apply, difference([before], [after]))
                times[name].append((time.perf_counter() - started) * 1000)
    finally:
        node.close()
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--sizes", default="10,100,1000")
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--mesh", action="store_true", help="APP-VMs reach each other: two of them, by our rules")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("bench/bridge_rules.py needs root: it makes network namespaces", file=sys.stderr)
        return 2
    asked = ["none", "ours"] if options.mesh else options.schemes.split(",")
    schemes = [name for name in asked if name not in NEEDS or shutil.which(NEEDS[name])]
    for name in set(asked) - set(schemes):
        print(f"{name}: left out, {NEEDS[name]} is not installed")
    figures: dict[str, Any] = {}
    print(f"{'VMs':>5} {'scheme':15} {'packets/s':>10} {'ratio to FS':>12} {'ratio from FS':>14} {'load ms':>9}")
    for size in map(int, options.sizes.split(",")):
        bridge = vcn(size, options.mesh)
        figures[str(size)] = {"rates": measure_rates(bridge, schemes, options.rounds)}
        for name, found in figures[str(size)]["rates"].items():
            print(
                f"{size:5} {name:15} {found['packets_per_second']:10.0f} {found['ratio_to_services']:12.3f}"
                f" {found['ratio_from_services']:14.3f} {found['load_ms']:9.1f}", flush=True
            )  # fmt: skip
        changes = figures[str(size)]["changes"] = measure_changes(bridge, options.rounds)
        print(f"{size:5} one VM added in {changes['add_ms']:.1f} ms, removed in {changes['remove_ms']:.1f} ms")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
