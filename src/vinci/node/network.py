# SPDX-License-Identifier: GPL-2.0-or-later
"""A node's network: its namespace, its bridges with their rules, and the taps that VMs hang on.

Everything lives in the node's own network namespace and nothing outside is touched. The order makes it safe: the
rules are in force before a port hangs on a bridge, and a port gets the device group by which the rules know it last.
Until then it is of group 0, for which nothing passes.

Taps are made here, persistent, before a VM starts, so that QEMU finds its port complete; libvirt is told to
leave it alone (`<interface type="ethernet"><target dev=… managed="no"/>`). Beyond the rules each port has a static
forwarding entry for its MAC, learns no other, and is flooded with nothing but broadcasts, and multicasts where its
community declares an ethertype: a guest cannot draw another's frames to its port by claiming the other's MAC.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns

from vinci.node.paths import NAMESPACES
from vinci.node.rules import NetworkError, Rules, network_errors
from vinci.plan.bridge_rules import bridge_ruleset, difference, host_ruleset, isolated_ports, port_group
from vinci.plan.types import Bridge, Port

OUR_BRIDGE = re.compile(r"b[0-9a-f]{8}")
OUR_TAP = re.compile(r"v[0-9a-f]{8}")
MAX_CHANGES_NAMED = 8

_SYSCTLS = {
    # A frame on a bridge is judged by the bridge's rules alone, not by a second set of rules for IP.
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
    "net/bridge/bridge-nf-call-arptables": "0",
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv4/ip_forward": "0",
}


# The namespace --------------------------------------------------------------------------------------------------------


def ensure_namespace(name: str) -> bool:
    """Make the network namespace unless it exists; true when it was made.

    Raises:
        NetworkError: it cannot be made.
    """
    path = NAMESPACES / name
    with network_errors(f"network namespace {name}"):
        if path.exists():
            if _is_namespace(path):
                return False
            path.unlink()  # left by a crash between making the file and mounting the namespace on it
        netns.create(name)
    if not _is_namespace(path):
        raise NetworkError(f"network namespace {name} was not made")
    return True


def enter_namespace(name: str) -> None:
    """Move this process into the namespace, for good. Call it before there is a second thread.

    Raises:
        NetworkError: no such namespace, or other threads run already and would stay outside.
    """
    if threading.active_count() != 1:
        raise NetworkError("the network namespace has to be entered before other threads start")
    with network_errors(f"network namespace {name}"):
        netns.setns(name, flags=0)


def remove_namespace(name: str) -> None:
    """Take the namespace away with all that is in it; no error when there is none.

    It lives on until the last process has left it.
    """
    if (NAMESPACES / name).exists():
        with network_errors(f"network namespace {name}"):
            netns.remove(name)


def inside_namespace(name: str) -> bool:
    """True when the calling thread is in the namespace."""
    try:
        return (NAMESPACES / name).stat().st_ino == Path("/proc/thread-self/ns/net").stat().st_ino
    except FileNotFoundError:
        return False


def _is_namespace(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


# Bridges and ports ----------------------------------------------------------------------------------------------------


class NodeNetwork:
    """The network of one node, used from inside its namespace."""

    def __init__(self, namespace: str) -> None:
        """`namespace` is checked at each use: the host's own network is never touched."""
        self._namespace = namespace
        self._lock = threading.Lock()
        self._bridges: tuple[Bridge, ...] = ()
        self._quarantined: frozenset[str] = frozenset()
        self._rules: Rules | None = None
        self._generation: int | None = None

    def converge(
        self, bridges: Sequence[Bridge], quarantined: Callable[[], Collection[str]] | None = None
    ) -> list[str]:
        """Make bridges, rules and ports what they have to be; a sentence for each change, none when all was so.

        Args:
            bridges: all bridges of the node with all their ports.
            quarantined: gives the taps whose ports pass nothing; asked when no other change can come between. None
                leaves those in quarantine that are.

        Raises:
            NetworkError: it could not be done. What is in force is then never wider than before and after.
            ValueError: two ports share a tap or an address.
        """
        with self._lock, network_errors("the node's network"):
            if not inside_namespace(self._namespace):
                raise NetworkError(f"this thread is not in the network namespace {self._namespace}")
            _set_sysctls()
            with IPRoute() as netlink:
                links = _Links(netlink)
                changes = [f"bridge {bridge.name} made" for bridge in bridges if links.ensure_bridge(bridge)]
                confined = self._quarantined if quarantined is None else frozenset(quarantined())
                changes += self._converge_rules(tuple(bridges), confined)
                made = [port.tap for bridge in bridges for port in _ensured(links, bridge)]
                gone = links.remove_all_but(bridges)
            return changes + _named("port", "made", made) + _named("interface", "removed", gone)

    def quarantine(self, tap: str) -> None:
        """Let a port pass nothing from now on, either way; what it tries is still recorded.

        Raises:
            NetworkError: the rules could not be changed.
        """
        with self._lock:
            self._converge_rules(self._bridges, self._quarantined | {tap})

    def release(self, tap: str) -> None:
        """End a port's quarantine.

        Raises:
            NetworkError: the rules could not be changed.
        """
        with self._lock:
            self._converge_rules(self._bridges, self._quarantined - {tap})

    def _converge_rules(self, bridges: tuple[Bridge, ...], quarantined: frozenset[str]) -> list[str]:
        """Change the rules by the difference; replace all of them when they are not known to be ours."""
        if self._rules is None:
            self._rules = Rules()
        known, intact = self._generation is not None, self._rules.generation() == self._generation
        if not intact:
            self._rules.apply(host_ruleset())
            self._rules.apply(bridge_ruleset(bridges, quarantined))
            change = ["the bridges' rules had been changed by somebody else and were replaced"] if known else []
        else:
            rules = difference(self._bridges, bridges, self._quarantined, quarantined)
            if not rules["nftables"]:
                return []
            self._rules.apply(rules)
            change = ["the bridges' rules were changed"]
        self._bridges, self._quarantined, self._generation = bridges, quarantined, self._rules.generation()
        return change if known else ["the bridges' rules were put in force"]


def _ensured(links: _Links, bridge: Bridge) -> list[Port]:
    isolated = isolated_ports(bridge)
    return [port for port in bridge.ports if links.ensure_port(bridge, port, isolated=port.tap in isolated)]


def _named(kind: str, done: str, names: Sequence[str]) -> list[str]:
    if len(names) > MAX_CHANGES_NAMED:
        return [f"{len(names)} {kind}s {done}"]
    return [f"{kind} {name} {done}" for name in names]


def _set_sysctls() -> None:
    for name, value in _SYSCTLS.items():
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)


class _Links:
    """The interfaces of the namespace as they are, and how to change them."""

    def __init__(self, netlink: Any) -> None:
        self._netlink = netlink
        self._links = {link.get("ifname"): link for link in netlink.get_links()}
        self._forwarding = {
            (entry["ifindex"], entry.get("lladdr")) for entry in netlink.fdb("dump") if entry["state"] & _STATIC
        }

    def _index(self, name: str) -> int:
        return int(self._links[name]["index"])

    def ensure_bridge(self, bridge: Bridge) -> bool:
        """Make a bridge without an address of its own, silent and up; true when something was missing."""
        if bridge.name not in self._links:
            self._netlink.link(
                "add", ifname=bridge.name, kind="bridge", address=_bridge_mac(bridge),
                br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0, br_mcast_querier=0, br_nf_call_iptables=0,
                br_nf_call_ip6tables=0, br_nf_call_arptables=0,
            )  # fmt: skip
            self._reload(bridge.name)
        elif self._links[bridge.name]["flags"] & _UP:
            return False
        self._netlink.link("set", index=self._index(bridge.name), state="up")
        return True

    def ensure_port(self, bridge: Bridge, port: Port, *, isolated: bool) -> bool:
        """Make a tap, hang it on its bridge, and only then let the rules know it; true when something was missing."""
        if port.tap not in self._links:
            self._netlink.link("add", ifname=port.tap, kind="tuntap", mode="tap")
            self._reload(port.tap)
        link, index, master = self._links[port.tap], self._index(port.tap), self._index(bridge.name)
        group = port_group(port)
        flags = {
            "learning": 0, "unicast_flood": 0, "bcast_flood": 1,
            # Multicasts go where the rules may let one pass, and cost nothing elsewhere.
            "mcast_flood": int(port.mesh and bool(bridge.ethertypes)),
            "isolated": int(isolated), "guard": 1,
        }  # fmt: skip
        attached = link.get("master") == master
        ready = link.get("group") == group and attached and (index, port.mac) in self._forwarding
        if ready and _port_flags(link) == flags and link["flags"] & _UP:
            return False
        if link.get("group") != group:
            self._netlink.link("set", index=index, group=0)
        if not attached:
            self._netlink.link("set", index=index, master=master)
        self._netlink.brport("set", index=index, **flags)
        self._netlink.fdb("replace", ifindex=index, lladdr=port.mac, state=_STATIC, flags=_TO_BRIDGE)
        self._netlink.link("set", index=index, group=group, state="up")
        return True

    def remove_all_but(self, bridges: Sequence[Bridge]) -> list[str]:
        """Remove our taps and bridges that no plan names any more; their names."""
        kept = {bridge.name for bridge in bridges} | {port.tap for bridge in bridges for port in bridge.ports}
        superfluous = [
            name
            for pattern in (OUR_TAP, OUR_BRIDGE)
            for name in sorted(self._links)
            if name not in kept and pattern.fullmatch(name)
        ]
        for name in superfluous:
            self._netlink.link("del", index=self._index(name))
        return superfluous

    def _reload(self, name: str) -> None:
        (self._links[name],) = self._netlink.get_links(ifname=name)


_UP = 1
_STATIC = 0x40  # NUD_NOARP: an entry that does not age, of a MAC that is not the host's
_TO_BRIDGE = 0x04  # NTF_MASTER: the bridge's own table


def _port_flags(link: Any) -> dict[str, int]:
    info = link.get(("linkinfo", "slave_data"))
    names = ("learning", "unicast_flood", "mcast_flood", "bcast_flood", "isolated", "guard")
    return {name: info.get(name) for name in names} if info is not None else {}


def _bridge_mac(bridge: Bridge) -> str:
    """A fixed MAC, or the bridge would take that of its lowest port; nothing is ever delivered to it."""
    return "02:57:" + ":".join(f"{byte:02x}" for byte in bridge.subnet.network_address.packed)
