# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules on a node's bridges, as nftables JSON: who may send what to whom inside a VCN and on the transit network.

One legal frame is one element of one hashed set: (in port, out port, source MAC, source IP, destination IP).
It is the paper's rule per ordered pair, looked up instead of walked through, so its cost does not grow
with the number of VMs. Everything that is not an element is dropped, counted, and recorded with port and reason.

A port is known by its *device group*, set by the agent when it makes the tap: a 4-byte number
(`port_group`) hashes in half the time of a 16-byte name, and a new interface has group 0, which nothing allows.

Two ports exchange frames only if each names the other as a peer, or both are of their bridge's mesh. The latter may
exchange the bridge's declared ethertypes, too.
See docs/explanation/network.md for what each rule is there for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, collapse_addresses

from vinci.plan.bridge_filter import TABLE, recorded_as, skeleton
from vinci.plan.nft import ACCEPT, Command, Json, Ruleset, Table, concat, goto, match, meta, prefix
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
    address (the rules could not tell them apart), or when a port of a mesh routes.
    """
    _check(bridges)
    elements = [element for bridge in bridges for element in _bridge_elements(bridge, quarantined)]
    recorders = [command for bridge in bridges for port in bridge.ports for command in _recorder(port.tap)]
    return {"nftables": [*TABLE.fresh(), *skeleton(), *recorders, *_adding(elements)]}


def host_ruleset() -> Ruleset:
    """The rules for the host's own end of a node's namespace: nothing comes in or goes out but on its loopback.

    The bridge gives frames for some group addresses (LLDP's) to the host's stack without asking the bridge's rules.
    No card there has an address; these rules make sure that it stays so.
    """
    host, arp = Table("inet", "vinci_host"), Table("arp", "vinci_host")
    only_loopback = [
        command
        for hook, key, priority in (("prerouting", "iifname", -300), ("output", "oifname", 0))
        for command in (host.base_chain(hook, priority), host.rule(hook, match(meta(key), "lo"), ACCEPT))
    ]
    silence = [arp.base_chain("input", 0), arp.base_chain("output", 0)]
    return {"nftables": [*host.fresh(), *only_loopback, *arp.fresh(), *silence]}


def difference(
    before: Sequence[Bridge],
    after: Sequence[Bridge],
    quarantined_before: Collection[str] = (),
    quarantined_after: Collection[str] = (),
) -> Ruleset:
    """The transaction that turns the rules of `before` into those of `after`; no commands when they are the same.

    Raises ValueError as `bridge_ruleset` does.
    """
    _check(after)
    touched = _touched(before, after, frozenset(quarantined_before) ^ frozenset(quarantined_after))
    old = dict.fromkeys(_touched_elements(before, touched, quarantined_before))
    new = dict.fromkeys(_touched_elements(after, touched, quarantined_after))
    gone = [element for element in old if element not in new]
    come = [element for element in new if element not in old]
    return {"nftables": [*_removing(gone), *_adding_with_recorders(come)]}


def port_added(bridge: Bridge, port: Port, quarantined: Collection[str] = ()) -> Ruleset:
    """The transaction that admits one port. `bridge` is the bridge as it shall be, with the port.

    Applying it twice, or before the ports of its peers were added, does no harm.
    """
    return difference([_without(bridge, port)], [bridge], quarantined, quarantined)


def port_removed(bridge: Bridge, port: Port, quarantined: Collection[str] = ()) -> Ruleset:
    """The transaction that leaves nothing of one port. `bridge` is the bridge as it was, with the port."""
    return difference([bridge], [_without(bridge, port)], quarantined, quarantined)


def quarantine(bridge: Bridge, port: Port, quarantined: Collection[str] = ()) -> Ruleset:
    """The transaction after which a port passes nothing, either way. What it tries is still recorded.

    `quarantined` names other ports that are in quarantine already.
    """
    return difference([bridge], [bridge], frozenset(quarantined) - {port.tap}, frozenset(quarantined) | {port.tap})


def release(bridge: Bridge, port: Port, quarantined: Collection[str] = ()) -> Ruleset:
    """The transaction that ends a port's quarantine; `quarantined` names the ports that stay in it."""
    return difference([bridge], [bridge], frozenset(quarantined) | {port.tap}, frozenset(quarantined) - {port.tap})


def _without(bridge: Bridge, port: Port) -> Bridge:
    return replace(bridge, ports=tuple(each for each in bridge.ports if each.tap != port.tap))


def isolated_ports(bridge: Bridge) -> frozenset[str]:
    """Taps that the kernel may keep apart by itself (bridge port flag `isolated`), whatever the rules say.

    No two of them are peers. The highest addresses, those of APP-VMs, come first: where they reach only their FS-VMs
    and their FW-VM all are isolated, and a broadcast from one of them is copied to those few ports, not to every VM.
    """
    isolated: set[str] = set()
    mesh_taken = False
    for port in sorted(bridge.ports, key=lambda port: port.address, reverse=True):
        if isolated.isdisjoint(port.peers) and not (port.mesh and mesh_taken):
            isolated.add(port.tap)
            mesh_taken = mesh_taken or port.mesh
    return frozenset(isolated)


# What each port and each pair adds to the sets ------------------------------------------------------------------------

_Element = tuple[str, tuple[object, ...]]
"""Name of the set and the parts of the key; for the map of recorders, (group, tap)."""

MESH_PAIRS = 100
"""Of the first so many ports of a bridge's mesh each pair is an element, which is cheapest for a frame.

With more of them two sets hold all, of the mesh's size and not of its square. The pairs stay: a port that comes or goes
changes its own elements, and those of one that takes its place among the first.
"""


def _paired(bridge: Bridge) -> frozenset[str]:
    """Taps of the ports of the mesh that make pairs: those with the lowest addresses."""
    return frozenset(port.tap for port in sorted(_mesh(bridge), key=lambda port: port.address)[:MESH_PAIRS])


def _mesh(bridge: Bridge) -> list[Port]:
    return [port for port in bridge.ports if port.mesh]


def _mesh_is_large(bridge: Bridge) -> bool:
    return len(_mesh(bridge)) > MESH_PAIRS


class _Around:
    """A bridge seen from one of its ports: who its peers are."""

    def __init__(self, bridge: Bridge, quarantined: Collection[str]) -> None:
        self.bridge = bridge
        self.quarantined = quarantined
        self.ports = {port.tap: port for port in bridge.ports}
        self._peers = {port.tap: frozenset(port.peers) for port in bridge.ports}
        self._mesh_is_large = _mesh_is_large(bridge)
        self._paired = _paired(bridge)
        self._paired_in_order = [port.tap for port in bridge.ports if port.tap in self._paired]

    def peers(self, port: Port) -> Iterator[Port]:
        """Ports with which a port makes pairs: both name each other, or both are among the first of the mesh."""
        candidates = dict.fromkeys(port.peers)
        if port.tap in self._paired:
            candidates.update(dict.fromkeys(self._paired_in_order))
        for tap in candidates:
            if self.are_peers(port.tap, tap):
                yield self.ports[tap]

    def are_peers(self, tap: str, other: str) -> bool:
        """True if two ports make a pair."""
        if tap == other or other not in self.ports:
            return False
        if tap in self._paired and other in self._paired:
            return True
        return other in self._peers[tap] and tap in self._peers[other]

    def elements(self, port: Port, *, both_ways: bool) -> Iterator[_Element]:
        """All elements in which a port has a part; without `both_ways` those in which it is the source."""
        yield from _claims(self.bridge, port)
        if port.tap in self.quarantined:
            yield "quarantined", (port_group(port),)
            return
        yield from self.of_large_mesh(port)
        if port.mesh:
            for number in self.bridge.ethertypes:
                yield "ethertypes", (port_group(port), number)
        for other in self.peers(port):
            yield from self.pair(port, other, both_ways=both_ways)

    def of_large_mesh(self, port: Port) -> Iterator[_Element]:
        """What a port of a large mesh adds to the two sets of all of it."""
        if port.mesh and self._mesh_is_large and port.tap not in self.quarantined:
            group, address = port_group(port), str(port.address)
            yield "mesh_sources", (group, port.mac, address)
            yield "mesh_targets", (group, address)

    def pair(self, port: Port, other: Port, *, both_ways: bool) -> Iterator[_Element]:
        """What two peers may send each other."""
        if other.tap not in self.quarantined:
            yield from _pair(port, other)
            if both_ways:
                yield from _pair(other, port)


def _bridge_elements(bridge: Bridge, quarantined: Collection[str]) -> Iterator[_Element]:
    around = _Around(bridge, quarantined)
    for port in bridge.ports:
        yield from around.elements(port, both_ways=False)


@dataclass(frozen=True, slots=True)
class _Touched:
    """Where two plans may differ: whole ports, and for ports that stay the same the peers that come or go."""

    ports: frozenset[str]
    peers: dict[str, frozenset[str]]
    meshes: frozenset[str]
    """Bridges whose mesh becomes large, or is large no more."""


def _touched(before: Sequence[Bridge], after: Sequence[Bridge], requarantined: frozenset[str]) -> _Touched:
    old = {port.tap: (bridge, port) for bridge in before for port in bridge.ports}
    new = {port.tap: (bridge, port) for bridge in after for port in bridge.ports}
    ports = {tap for tap in old.keys() | new.keys() if tap not in old or tap not in new} | requarantined
    peers = {}
    for tap in old.keys() & new.keys():
        (bridge, port), (new_bridge, new_port) = old[tap], new[tap]
        same_bridge = _of_ports(bridge) == _of_ports(new_bridge)
        if not same_bridge or replace(port, peers=()) != replace(new_port, peers=()):
            ports.add(tap)
        elif port.peers != new_port.peers:
            peers[tap] = frozenset(port.peers) ^ frozenset(new_port.peers)
    known = {bridge.name: bridge for bridge in before}
    same = [(known[bridge.name], bridge) for bridge in after if bridge.name in known]
    meshes = {new_bridge.name for bridge, new_bridge in same if _mesh_is_large(bridge) != _mesh_is_large(new_bridge)}
    for bridge, new_bridge in same:
        ports |= _paired(bridge) ^ _paired(new_bridge)
    return _Touched(frozenset(ports), peers, frozenset(meshes))


def _of_ports(bridge: Bridge) -> tuple[object, ...]:
    """What of a bridge its ports' elements depend on."""
    return bridge.name, bridge.subnet, bridge.ethertypes


def _touched_elements(bridges: Sequence[Bridge], touched: _Touched, quarantined: Collection[str]) -> Iterator[_Element]:
    for bridge in bridges:
        around = _Around(bridge, quarantined)
        for port in bridge.ports:
            if port.tap in touched.ports:
                yield from around.elements(port, both_ways=True)
                continue
            if bridge.name in touched.meshes:
                yield from around.of_large_mesh(port)
            if port.tap in touched.peers and port.tap not in quarantined:
                for name in sorted(touched.peers[port.tap] & around.ports.keys()):
                    if around.are_peers(port.tap, name):
                        yield from around.pair(port, around.ports[name], both_ways=True)


def _claims(bridge: Bridge, port: Port) -> Iterator[_Element]:
    """What a port may say it is."""
    group, address = port_group(port), str(port.address)
    yield "macs", (group, port.mac)
    yield "addresses", (group, address)
    yield "arp_claims", (group, port.mac, port.mac, address)
    yield "known", (address,)
    yield "recorders", (group, port.tap)
    for network in _outside(bridge, port.routed_networks):
        yield "routed", (group, network)
    for network in _outside(bridge, _reached(port)):
        yield "reached", (group, network)


def _pair(source: Port, to: Port) -> Iterator[_Element]:
    """What `source` may send to `to`."""
    way = (port_group(source), port_group(to), source.mac)
    yield "pairs", (*way, str(source.address), str(to.address))
    if _reached(to):
        yield "to_router", (*way, str(source.address))
    if source.routed_networks:
        yield "from_router", (*way, str(to.address))
    if source.routed_networks and _reached(to) and to.tap not in source.unheard_peers:
        yield "between_routers", way


def _reached(port: Port) -> tuple[IPv4Network, ...]:
    return port.routed_networks if port.reached_networks is None else port.reached_networks


def _outside(bridge: Bridge, networks: tuple[IPv4Network, ...]) -> list[IPv4Network]:
    """Networks behind an FW-VM's port, without any address of the bridge itself."""
    outside: list[IPv4Network] = []
    for network in networks:
        if not network.overlaps(bridge.subnet):
            outside.append(network)
        elif bridge.subnet.subnet_of(network) and bridge.subnet != network:
            outside += network.address_exclude(bridge.subnet)
    return list(collapse_addresses(outside))


def _check(bridges: Sequence[Bridge]) -> None:
    seen: set[object] = set()
    for bridge in bridges:
        for port in bridge.ports:
            if port.mesh and port.routed_networks:
                raise ValueError(f"bridge {bridge.name}: {port.tap} routes and cannot be of the mesh")
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
