# SPDX-License-Identifier: GPL-2.0-or-later
"""The bridges' rules judged by an evaluator of their own, against a plain statement of what is legal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nft_evaluator import Firewall

from vinci.plan import bridge_rules
from vinci.plan.bridge_filter import REASON_MARKS
from vinci.plan.bridge_rules import (
    bridge_ruleset,
    difference,
    isolated_ports,
    port_added,
    port_group,
    port_removed,
    quarantine,
    release,
)
from vinci.plan.types import Bridge, Port

BROADCAST, MULTICAST = "ff:ff:ff:ff:ff:ff", "01:0c:cd:01:00:01"
ROUTED = ("10.0.9.0/24", "10.0.8.0/25", "0.0.0.0/0", "10.0.1.128/25")
REASONS = {mark: reason.value for reason, mark in REASON_MARKS.items()}


@pytest.fixture(autouse=True, scope="module")
def small_limit() -> Iterator[None]:
    """The third port of a mesh makes it large here, so that both forms are met."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bridge_rules, "MESH_PAIRS", 2)
        yield


def make_port(
    bridge: int, host: int, peers: frozenset[int], routed: tuple[str, ...] = (), *, mesh: bool = False
) -> Port:
    address = IPv4Address(f"10.0.{bridge}.{host}")
    taps = tuple(f"v{int(IPv4Address(f'10.0.{bridge}.{peer}')):08x}" for peer in sorted(peers))
    return Port(f"v{int(address):08x}", "02:56:" + address.packed.hex(":"), address, taps, networks_of(routed), mesh)


def networks_of(texts: Iterable[str]) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(text) for text in texts)


@st.composite
def bridges(draw: st.DrawFn) -> tuple[Bridge, ...]:
    made = []
    for number in range(1, draw(st.integers(1, 2)) + 1):
        hosts = draw(st.lists(st.integers(1, 6), unique=True, min_size=1, max_size=5))
        ports = []
        for host in hosts:
            # Peers may be one-sided, absent or the port itself: only mutual ones count.
            peers = draw(st.frozensets(st.integers(1, 6)))
            routed = draw(st.lists(st.sampled_from(ROUTED), max_size=2)) if draw(st.booleans()) else []
            port = make_port(number, host, peers, tuple(routed), mesh=not routed and draw(st.booleans()))
            if routed:
                reached = draw(st.none() | st.lists(st.sampled_from(ROUTED), max_size=2).map(networks_of))
                unheard = tuple(draw(st.frozensets(st.sampled_from(port.peers)))) if port.peers else ()
                port = replace(port, reached_networks=reached, unheard_peers=unheard)
            ports.append(port)
        declared = tuple(draw(st.lists(st.sampled_from([0x88B8, 0x88BA]), unique=True)))
        made.append(Bridge(f"b{number}", f"n{number}", IPv4Network(f"10.0.{number}.0/24"), tuple(ports), declared))
    return tuple(made)


def frames(ports: list[Port]) -> st.SearchStrategy[dict[str, object]]:
    macs = st.sampled_from([port.mac for port in ports] + ["02:56:00:00:00:99"])
    targets = macs | st.sampled_from([BROADCAST, MULTICAST])
    addresses = st.sampled_from([str(port.address) for port in ports] + ["10.0.9.5", "10.0.1.200", "0.0.0.0"])
    ether = {"ether.saddr": macs, "ether.daddr": targets}
    ip = st.fixed_dictionaries(
        {
            **ether,
            "ether.type": st.just("ip"),
            "ip.saddr": addresses,
            "ip.daddr": addresses | st.sampled_from(["255.255.255.255", "224.0.0.1"]),
        }
    )
    ported = st.fixed_dictionaries(
        {"meta.l4proto": st.sampled_from(["udp", "tcp"]), "th.dport": st.sampled_from([53, 67, 68, 443])}
    ).map(lambda fields: {**fields, f"{fields['meta.l4proto']}.dport": fields["th.dport"]})
    fragment = st.fixed_dictionaries({"meta.l4proto": st.just("udp")})
    icmp = st.fixed_dictionaries(
        {
            "meta.l4proto": st.just("icmp"),
            "th.dport": st.sampled_from([0, 67]),  # bytes of the checksum
            "icmp.type": st.sampled_from(["echo-request", "redirect", "router-advertisement"]),
        }
    )
    arp = st.fixed_dictionaries(
        {
            **ether,
            "ether.type": st.just("arp"),
            "arp.htype": st.sampled_from([1, 1, 1, 6]),
            "arp.ptype": st.sampled_from(["ip", "ip", "ip", "ip6"]),
            "arp.hlen": st.sampled_from([6, 6, 6, 8]),
            "arp.plen": st.sampled_from([4, 4, 4, 16]),
            "arp.operation": st.sampled_from(["request", "reply", "rrequest"]),
            "arp.saddr ether": macs,
            "arp.saddr ip": addresses,
            "arp.daddr ip": addresses,
        }
    )
    kinds = st.sampled_from([0x88B8, 0x88BA]) | st.sampled_from(["ip6", "8021q", "8021ad", 0x88CC])
    other = st.fixed_dictionaries({**ether, "ether.type": kinds})
    with_ip = st.tuples(ip, ported | fragment | icmp).map(lambda pair: {**pair[0], **pair[1]})
    return with_ip | arp | other


def is_legal(frame: dict[str, object], source: Port, to: Port, bridge: Bridge) -> bool:
    """What the documentation promises, said without rules."""
    named = to.tap in source.peers and source.tap in to.peers
    if not named and not (source.mesh and to.mesh):
        return False
    if frame["ether.saddr"] != source.mac:
        return False
    if frame["ether.type"] == "arp":
        own = (frame["arp.saddr ether"], frame["arp.saddr ip"]) == (source.mac, str(source.address))
        asked = frame["arp.daddr ip"] == str(to.address)
        unicast = frame["ether.daddr"] not in (BROADCAST, MULTICAST)
        ordinary = [frame[f"arp.{name}"] for name in ("htype", "ptype", "hlen", "plen")] == [1, "ip", 6, 4]
        return own and asked and ordinary and (
            frame["arp.operation"] == "request" or (frame["arp.operation"] == "reply" and unicast)
        )  # fmt: skip
    if frame["ether.type"] != "ip":
        heard = frame["ether.daddr"] in (to.mac, BROADCAST, MULTICAST)
        return source.mesh and to.mesh and frame["ether.type"] in bridge.ethertypes and heard
    if frame["meta.l4proto"] == "udp" and frame.get("th.dport") in (67, 68):
        return False
    if frame.get("icmp.type") in ("redirect", "router-advertisement"):
        return False
    claimed, meant = str(frame["ip.saddr"]), str(frame["ip.daddr"])
    routed = claimed != str(source.address) and meant != str(to.address)
    if routed and to.tap in source.unheard_peers:
        return False
    reached = to.routed_networks if to.reached_networks is None else to.reached_networks
    return stands_for(source, source.routed_networks, claimed, bridge.subnet) and stands_for(
        to, reached, meant, bridge.subnet
    )


def stands_for(port: Port, behind: tuple[IPv4Network, ...], address: str, subnet: IPv4Network) -> bool:
    if address == str(port.address):
        return True
    outside = IPv4Address(address) not in subnet
    return outside and any(IPv4Address(address) in network for network in behind)


@given(bridges(), st.data())
def test_a_frame_passes_if_and_only_if_it_is_legal(plan: tuple[Bridge, ...], data: st.DataObject) -> None:
    rules = Firewall(bridge_ruleset(plan))
    bridge = data.draw(st.sampled_from(plan))
    every = [port for each in plan for port in each.ports]
    source, to = data.draw(st.sampled_from(bridge.ports)), data.draw(st.sampled_from(bridge.ports))
    assume(source is not to)  # a bridge sends no frame back where it came from
    frame = data.draw(frames(every))
    verdict = rules.judge("forward", {**frame, "meta.iifgroup": port_group(source), "meta.oifgroup": port_group(to)})
    assert verdict.accepted == is_legal(frame, source, to, bridge)


@given(bridges(), st.data())
def test_nothing_passes_between_bridges_or_by_unknown_ports(plan: tuple[Bridge, ...], data: st.DataObject) -> None:
    rules = Firewall(bridge_ruleset(plan))
    every = [port for each in plan for port in each.ports]
    frame = data.draw(frames(every))
    # The kernel forwards within a bridge only; the two sets of a mesh rely on it.
    groups = {port_group(port): bridge.name for bridge in plan for port in bridge.ports if not port.mesh}
    source, to = data.draw(st.sampled_from([0, *groups])), data.draw(st.sampled_from([0, *groups]))
    verdict = rules.judge("forward", {**frame, "meta.iifgroup": source, "meta.oifgroup": to})
    if source == 0 or to == 0 or groups[source] != groups[to]:
        assert not verdict.accepted


@given(bridges(), st.data())
def test_nothing_reaches_the_host_or_comes_from_it(plan: tuple[Bridge, ...], data: st.DataObject) -> None:
    rules = Firewall(bridge_ruleset(plan))
    every = [port for each in plan for port in each.ports]
    frame = data.draw(frames(every))
    group = data.draw(st.sampled_from([0, *map(port_group, every)]))
    assert not rules.judge("input", {**frame, "meta.iifgroup": group}).accepted
    assert not rules.judge("output", {**frame, "meta.oifgroup": group}).accepted


@given(bridges(), st.data())
def test_a_spoofed_frame_is_recorded_under_its_port(plan: tuple[Bridge, ...], data: st.DataObject) -> None:
    rules = Firewall(bridge_ruleset(plan))
    every = [port for each in plan for port in each.ports]
    bridge = data.draw(st.sampled_from(plan))
    source, to = data.draw(st.sampled_from(bridge.ports)), data.draw(st.sampled_from(bridge.ports))
    frame = {**data.draw(frames(every)), "ether.daddr": to.mac}
    verdict = rules.judge("forward", {**frame, "meta.iifgroup": port_group(source), "meta.oifgroup": port_group(to)})
    declared = bridge.ethertypes if source.mesh else ()
    if frame["ether.type"] in ("ip", "arp", *declared) and frame["ether.saddr"] != source.mac:
        assert (verdict.log, REASONS[verdict.mark]) == (source.tap, "spoofed-mac")


@given(bridges(), st.data())
def test_one_port_added_or_removed_equals_the_full_replacement(plan: tuple[Bridge, ...], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(plan) - 1))
    bridge = plan[number]
    port = data.draw(st.sampled_from(bridge.ports))
    without = replace(bridge, ports=tuple(each for each in bridge.ports if each is not port))
    smaller = (*plan[:number], without, *plan[number + 1 :])

    added = Firewall(bridge_ruleset(smaller), port_added(bridge, port))
    assert added.state() == Firewall(bridge_ruleset(plan)).state()
    added.apply(port_added(bridge, port))
    assert added.state() == Firewall(bridge_ruleset(plan)).state()

    removed = Firewall(bridge_ruleset(plan), port_removed(bridge, port))
    assert removed.state() == Firewall(bridge_ruleset(smaller)).state()
    removed.apply(port_removed(bridge, port))
    assert removed.state() == Firewall(bridge_ruleset(smaller)).state()


@given(bridges(), bridges(), st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_the_difference_leads_from_any_plan_to_any_other(
    before: tuple[Bridge, ...], after: tuple[Bridge, ...], first: set[int], second: set[int]
) -> None:
    confined_before, confined_after = _some_taps(before, first), _some_taps(after, second)
    rules = Firewall(bridge_ruleset(before, confined_before))
    rules.apply(difference(before, after, confined_before, confined_after))
    assert rules.state() == Firewall(bridge_ruleset(after, confined_after)).state()


@pytest.mark.parametrize("kind", [0x88B8, 0x88BB])
def test_ethertypes_come_and_go_by_what_they_add(kind: int) -> None:
    ports = (*(make_port(1, host, frozenset(), mesh=True) for host in range(10, 14)), make_port(1, 1, frozenset()))
    without = Bridge("b1", "n1", IPv4Network("10.0.1.0/24"), ports)
    declared = replace(without, ethertypes=(kind,))
    added, removed = difference([without], [declared]), difference([declared], [without])
    (command,) = added["nftables"]
    assert len(command["add"]["element"]["elem"]) == 4, "an element an APP-VM, and nothing else"
    rules = Firewall(bridge_ruleset([without]), added)
    assert rules.state() == Firewall(bridge_ruleset([declared])).state()
    rules.apply(removed)
    assert rules.state() == Firewall(bridge_ruleset([without])).state()


def test_a_port_in_quarantine_exchanges_no_ethertype() -> None:
    one, two = (make_port(1, host, frozenset(), mesh=True) for host in (10, 11))
    bridge = Bridge("b1", "n1", IPv4Network("10.0.1.0/24"), (one, two), (0x88B8,))
    frame = {"ether.saddr": one.mac, "ether.daddr": MULTICAST, "ether.type": 0x88B8}
    way = {"meta.iifgroup": port_group(one), "meta.oifgroup": port_group(two)}
    assert Firewall(bridge_ruleset([bridge])).judge("forward", {**frame, **way}).accepted
    for confined in (one, two):
        rules = Firewall(bridge_ruleset([bridge]), quarantine(bridge, confined))
        assert not rules.judge("forward", {**frame, **way}).accepted


def _some_taps(plan: tuple[Bridge, ...], numbers: set[int]) -> frozenset[str]:
    taps = [port.tap for bridge in plan for port in bridge.ports]
    return frozenset(tap for number, tap in enumerate(taps) if number in numbers)


@given(bridges(), st.data())
def test_a_quarantined_port_passes_nothing_and_can_be_released(plan: tuple[Bridge, ...], data: st.DataObject) -> None:
    bridge = data.draw(st.sampled_from(plan))
    port = data.draw(st.sampled_from(bridge.ports))
    rules = Firewall(bridge_ruleset(plan), quarantine(bridge, port))
    assert rules.state() == Firewall(bridge_ruleset(plan, {port.tap})).state()
    frame = data.draw(frames(list(bridge.ports)))
    other = port_group(data.draw(st.sampled_from(bridge.ports)))
    for ends in ((port_group(port), other), (other, port_group(port))):
        way = {"meta.iifgroup": ends[0], "meta.oifgroup": ends[1]}
        assert not rules.judge("forward", {**frame, **way}).accepted
    rules.apply(release(bridge, port))
    assert rules.state() == Firewall(bridge_ruleset(plan)).state()


@given(bridges())
def test_same_plan_same_bytes(plan: tuple[Bridge, ...]) -> None:
    assert json.dumps(bridge_ruleset(plan)) == json.dumps(bridge_ruleset(plan))
    assert difference(plan, plan) == {"nftables": []}


@given(bridges())
def test_no_two_isolated_ports_are_peers(plan: tuple[Bridge, ...]) -> None:
    for bridge in plan:
        isolated = isolated_ports(bridge)
        peers = {(port.tap, peer) for port in bridge.ports for peer in port.peers if peer != port.tap}
        assert not any((peer, tap) in peers and tap in isolated and peer in isolated for tap, peer in peers)
        assert sum(port.mesh and port.tap in isolated for port in bridge.ports) <= 1


def test_application_vms_without_peers_among_them_are_isolated() -> None:
    apps = frozenset(range(10, 20))
    services = frozenset({1, 2})
    ports = [make_port(1, 1, apps), make_port(1, 2, apps), *(make_port(1, host, services) for host in apps)]
    bridge = Bridge("b1", "n1", IPv4Network("10.0.1.0/24"), tuple(ports))
    assert isolated_ports(bridge) == {port.tap for port in ports[2:]}


def test_two_ports_with_one_address_are_refused() -> None:
    port = make_port(1, 1, frozenset())
    twice = Bridge("b1", "n1", IPv4Network("10.0.1.0/24"), (port, replace(port, tap="v0")))
    with pytest.raises(ValueError, match="used by two ports"):
        bridge_ruleset([twice])


def test_a_router_in_the_mesh_is_refused() -> None:
    port = make_port(1, 1, frozenset(), ("10.0.9.0/24",), mesh=True)
    with pytest.raises(ValueError, match="cannot be of the mesh"):
        bridge_ruleset([Bridge("b1", "n1", IPv4Network("10.0.1.0/24"), (port,))])


@pytest.mark.parametrize("size", [99, 100, 101, 119])
@pytest.mark.parametrize("which", [0, 50, -1])
def test_a_mesh_grows_and_shrinks_by_what_one_port_adds(monkeypatch: pytest.MonkeyPatch, size: int, which: int) -> None:
    """Also where it becomes large, and where another port takes the place of one among the first."""
    monkeypatch.setattr(bridge_rules, "MESH_PAIRS", 100)
    ports = tuple(make_port(1, host, frozenset(), mesh=True) for host in range(1, size + 1))
    bridge = Bridge("b1", "n1", IPv4Network("10.0.1.0/24"), ports)
    port = ports[which]
    without = replace(bridge, ports=tuple(each for each in ports if each is not port))
    for change in (port_added(bridge, port), port_removed(bridge, port)):
        objects = [content for command in change["nftables"] for content in command.values()]
        changed = sum(len(content["element"]["elem"]) for content in objects if "element" in content)
        assert changed < 20 * bridge_rules.MESH_PAIRS  # of the square there would be 20,000
    rules = Firewall(bridge_ruleset([without]), port_added(bridge, port))
    assert rules.state() == Firewall(bridge_ruleset([bridge])).state()
