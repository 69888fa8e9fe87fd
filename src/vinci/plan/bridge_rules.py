# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules on a node's bridges, as nftables JSON: who may send what to whom inside a VCN and on the transit network.

One legal frame is one element of one hashed set: (in port, out port, source MAC, source IP, destination IP).
It is the paper's rule per ordered pair, looked up instead of walked through, so its cost does not grow
with the number of VMs. Everything that is not an element is dropped, counted, and recorded with port and reason.

A port is known by its *device group*, set by the agent when it makes the tap: a 4-byte number
(`port_group`) hashes in half the time of a 16-byte name, and a new interface has group 0, which nothing allows.

Two ports exchange frames only if each names the other as a peer.
See docs/explanation/network.md for what each rule is there for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, collapse_addresses

from vinci.plan.bridge_filter import TABLE, recorded_as, skeleton
from vinci.plan.nft import Command, Json, Ruleset, concat, goto, prefix
from vinci.plan.types import Bridge, Port


def port_group(port: Port) -> int:
    """The device group that stands for a port in the rules: its address as a number, so unique on a node."""
    return int(port.address)


def recorder_chain(tap: str) -> str:
    """The chain that records a port's dropped frames under the port's name."""
    return f"drop_{tap}"


def bridge_ruleset(bridges: Sequence[Bridge], quarantined: Collection[str] = ()) -> Ruleset:
    """All rules of a node's bridges, as one transaction that replaces those in force.

    `quarantined` holds tap names whose ports pass nothing. Raises ValueError when two ports share a tap or an
    address: the rules could not tell them apart.
    """
    _check_distinct(bridges)
    elements = [element for bridge in bridges for element in _bridge_elements(bridge, quarantined)]
    recorders = [command for bridge in bridges for port in bridge.ports for command in _recorder(port.tap)]
    return {"nftables": [*TABLE.fresh(), *skeleton(), *recorders, *_adding(elements)]}


def difference(
    before: Sequence[Bridge],
    after: Sequence[Bridge],
    quarantined_before: Collection[str] = (),
    quarantined_after: Collection[str] = (),
) -> Ruleset:
    """The transaction that turns the rules of `before` into those of `after`; no commands when they are the same.

    Raises ValueError as `bridge_ruleset` does.
    """
    _check_distinct(after)
    touched = _touched(before, after, frozenset(quarantined_before) ^ frozenset(quarantined_after))
    old = dict.fromkeys(_touched_elements(before, touched, quarantined_before))
    new = dict.fromkeys(_touched_elements(after, touched, quarantined_after))
    gone = [element for element in old if element not in new]
    come = [element for element in new if element not in old]
    return {"nftables": [*_removing(gone), *_adding_with_recorders(come)]}


def port_added(bridge: Bridge, port: Port, quarantined: Collection[str] = ()) -> Ruleset:
    """The transaction that admits one port. `bridge` is the bridge as it shall be, with the port.

    Applying it twice, or before the ports of its peers were added, does no harm: the result depends on the
    set of ports only.
    """
    return {"nftables": _adding_with_recorders(_port_elements(bridge, port, quarantined))}


def port_removed(bridge: Bridge, port: Port) -> Ruleset:
    """The transaction that leaves nothing of one port. `bridge` is the bridge as it was, with the port."""
    return {"nftables": _removing([*_port_elements(bridge, port, ()), _in_quarantine(port)])}


def quarantine(bridge: Bridge, port: Port) -> Ruleset:
    """The transaction after which a port passes nothing, either way. What it tries is still recorded."""
    passing = [element for element in _port_elements(bridge, port, ()) if element[0] not in _CLAIMS]
    return {"nftables": [*_removing(passing), *_adding([_in_quarantine(port)])]}


def release(bridge: Bridge, port: Port, quarantined: Collection[str] = ()) -> Ruleset:
    """The transaction that ends a port's quarantine; `quarantined` names the ports that stay in it."""
    return {"nftables": [*_removing([_in_quarantine(port)]), *_adding(_port_elements(bridge, port, quarantined))]}


def isolated_ports(bridge: Bridge) -> frozenset[str]:
    """Taps that the kernel may keep apart by itself (bridge port flag `isolated`), whatever the rules say.

    No two of them are peers. The highest addresses, those of APP-VMs, come first: where they reach only their FS-VMs
    and their FW-VM all are isolated, and a broadcast from one of them is copied to those few ports, not to every VM.
    """
    isolated: set[str] = set()
    for port in sorted(bridge.ports, key=lambda port: port.address, reverse=True):
        if isolated.isdisjoint(port.peers):
            isolated.add(port.tap)
    return frozenset(isolated)


# What each port and each pair adds to the sets ------------------------------------------------------------------------

_Element = tuple[str, tuple[object, ...]]
"""Name of the set and the parts of the key; for the map of recorders, (group, tap)."""

_CLAIMS = frozenset({"routed", "macs", "addresses", "arp_claims", "recorders"})


def _bridge_elements(bridge: Bridge, quarantined: Collection[str]) -> Iterator[_Element]:
    ports = {port.tap: port for port in bridge.ports}
    peers = {port.tap: frozenset(port.peers) for port in bridge.ports}
    for port in bridge.ports:
        yield from _claims(bridge, port)
        if port.tap in quarantined:
            yield _in_quarantine(port)
            continue
        for name in port.peers:
            if name in ports and name != port.tap and name not in quarantined and port.tap in peers[name]:
                yield from _pair(port, ports[name])


def _port_elements(bridge: Bridge, port: Port, quarantined: Collection[str]) -> Iterator[_Element]:
    """All elements in which one port has a part."""
    yield from _claims(bridge, port)
    if port.tap in quarantined:
        yield _in_quarantine(port)
        return
    ports = {each.tap: each for each in bridge.ports}
    for name in port.peers:
        if name in ports:
            yield from _mutual(port, ports[name], quarantined)


@dataclass(frozen=True, slots=True)
class _Touched:
    """Where two plans may differ: whole ports, and for ports that stay the same the peers that come or go."""

    ports: frozenset[str]
    peers: dict[str, frozenset[str]]


def _touched(before: Sequence[Bridge], after: Sequence[Bridge], requarantined: frozenset[str]) -> _Touched:
    old = {port.tap: (bridge, port) for bridge in before for port in bridge.ports}
    new = {port.tap: (bridge, port) for bridge in after for port in bridge.ports}
    ports = {tap for tap in old.keys() | new.keys() if tap not in old or tap not in new} | requarantined
    peers = {}
    for tap in old.keys() & new.keys():
        (bridge, port), (new_bridge, new_port) = old[tap], new[tap]
        same_bridge = (bridge.name, bridge.subnet) == (new_bridge.name, new_bridge.subnet)
        if not same_bridge or replace(port, peers=()) != replace(new_port, peers=()):
            ports.add(tap)
        elif port.peers != new_port.peers:
            peers[tap] = frozenset(port.peers) ^ frozenset(new_port.peers)
    return _Touched(frozenset(ports), peers)


def _touched_elements(bridges: Sequence[Bridge], touched: _Touched, quarantined: Collection[str]) -> Iterator[_Element]:
    for bridge in bridges:
        ports = {port.tap: port for port in bridge.ports}
        for port in bridge.ports:
            if port.tap in touched.ports:
                yield from _port_elements(bridge, port, quarantined)
            elif port.tap in touched.peers and port.tap not in quarantined:
                for name in sorted(touched.peers[port.tap] & ports.keys()):
                    yield from _mutual(port, ports[name], quarantined)


def _mutual(port: Port, other: Port, quarantined: Collection[str]) -> Iterator[_Element]:
    """What two ports may send each other, which is nothing unless each names the other."""
    if other.tap == port.tap or other.tap in quarantined:
        return
    if other.tap in port.peers and port.tap in other.peers:
        yield from _pair(port, other)
        yield from _pair(other, port)


def _in_quarantine(port: Port) -> _Element:
    return "quarantined", (port_group(port),)


def _claims(bridge: Bridge, port: Port) -> Iterator[_Element]:
    """What a port may say it is."""
    group, address = port_group(port), str(port.address)
    yield "macs", (group, port.mac)
    yield "addresses", (group, address)
    yield "arp_claims", (group, port.mac, port.mac, address)
    yield "recorders", (group, port.tap)
    for network in _routed(bridge, port):
        yield "routed", (group, network)


def _pair(source: Port, to: Port) -> Iterator[_Element]:
    """What `source` may send to `to`."""
    way = (port_group(source), port_group(to), source.mac)
    yield "pairs", (*way, str(source.address), str(to.address))
    if to.routed_networks:
        yield "to_router", (*way, str(source.address))
    if source.routed_networks:
        yield "from_router", (*way, str(to.address))
    if source.routed_networks and to.routed_networks:
        yield "between_routers", way


def _routed(bridge: Bridge, port: Port) -> list[IPv4Network]:
    """The networks behind an FW-VM's port, without any address of the bridge itself."""
    outside: list[IPv4Network] = []
    for network in port.routed_networks:
        if not network.overlaps(bridge.subnet):
            outside.append(network)
        elif bridge.subnet.subnet_of(network) and bridge.subnet != network:
            outside += network.address_exclude(bridge.subnet)
    return list(collapse_addresses(outside))


def _check_distinct(bridges: Sequence[Bridge]) -> None:
    seen: set[object] = set()
    for bridge in bridges:
        for port in bridge.ports:
            for key in (port.tap, port.address):
                if key in seen:
                    raise ValueError(f"bridge {bridge.name}: {key} is used by two ports of this node")
                seen.add(key)


# From elements to commands --------------------------------------------------------------------------------------------


def _json(element: _Element) -> Json:
    name, parts = element
    if name == "recorders":
        return [parts[0], goto(recorder_chain(str(parts[1])))]
    values = [prefix(part) if isinstance(part, IPv4Network) else part for part in parts]
    return values[0] if len(values) == 1 else concat(*values)


def _by_set(elements: Iterable[_Element]) -> dict[str, list[_Element]]:
    grouped: dict[str, list[_Element]] = {}
    for element in elements:
        grouped.setdefault(element[0], []).append(element)
    return grouped


def _adding(elements: Iterable[_Element]) -> list[Command]:
    commands = []
    for name, members in _by_set(elements).items():
        commands += TABLE.add_elements(name, [_json(member) for member in members])
    return commands


def _adding_with_recorders(elements: Iterable[_Element]) -> list[Command]:
    """Adds elements; a port's recorder comes before the element that leads to it."""
    wanted = list(elements)
    recorders: list[Command] = []
    for name, parts in wanted:
        if name == "recorders":
            make, *rules = _recorder(str(parts[1]))
            recorders += [make, TABLE.flush_chain(recorder_chain(str(parts[1]))), *rules]
    return [*recorders, *_adding(wanted)]


def _removing(elements: Iterable[_Element]) -> list[Command]:
    """Removes elements, and the recorders that no element leads to any more."""
    unwanted = _by_set(elements)
    chains = [recorder_chain(str(parts[1])) for _name, parts in unwanted.get("recorders", [])]
    commands = [TABLE.chain(chain) for chain in chains]
    for name, members in unwanted.items():
        commands += TABLE.remove_elements(name, [_json(member) for member in members])
    return commands + [command for chain in chains for command in TABLE.remove_chain(chain)]


def _recorder(tap: str) -> list[Command]:
    return [TABLE.chain(recorder_chain(tap)), TABLE.rule(recorder_chain(tap), *recorded_as(tap))]
