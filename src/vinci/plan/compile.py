# SPDX-License-Identifier: GPL-2.0-or-later
"""From the model to the plan: addresses, machines, bridge ports, firewalls, file services. A pure function.

The declaration must have passed `vinci.model.load`: references resolve and every label exists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from vinci.model.infrastructure import (
    Direction,
    Infrastructure,
    Operation,
    Peers,
    Response,
)
from vinci.model.labels import PlannedLabel, resolve_labels
from vinci.model.machines import app_vm_names, firewall_name, members_of
from vinci.model.services import resolve_service
from vinci.plan.addresses import (
    app_vm_address,
    bridge_of,
    community_networks,
    file_server_leg,
    gateway_of,
    mac_of,
    tap_of,
)
from vinci.plan.types import (
    TRANSIT,
    Bridge,
    Disk,
    FileService,
    Firewall,
    FlowRule,
    Member,
    Nic,
    NodePlan,
    Plan,
    PlannedCommunity,
    PlannedGateway,
    PlannedShare,
    Port,
    Route,
    ShareGrant,
    Subject,
    Vm,
    VmKind,
)
from vinci.policy.cil import file_policy, own_types, share_context, subject_context

EVERYWHERE = IPv4Network("0.0.0.0/0")
SHARE_ROOT = "/srv"
FIRST_GATEWAY = 20_000
"""Gateways of an FW-VM are numbered from here: below the ports that its own connections leave from (32768 on)."""


@dataclass(frozen=True, slots=True)
class _Context:
    """What every step needs, derived once."""

    infrastructure: Infrastructure
    labels: Mapping[str, PlannedLabel]
    networks: Mapping[str, IPv4Network]
    transit_addresses: Mapping[str, IPv4Address]
    served: Mapping[str, tuple[str, ...]]
    """Communities that each file server serves, in file order."""
    app_vms: Mapping[str, tuple[tuple[str, str | None], ...]]
    """The APP-VMs of each community: name, and the user it is dedicated to."""
    order: Mapping[str, int]
    """Each community's number in the file."""
    neighbours: Mapping[str, frozenset[str]]
    """Communities that each community has a flow with, in either direction."""


def compile_plan(infrastructure: Infrastructure) -> Plan:
    """The whole plan of a valid infrastructure. Same input, same output, byte for byte."""
    resolve = resolve_labels(infrastructure)
    networks = community_networks(infrastructure)
    members_in = members_of(infrastructure)
    served = {server: _served_by(infrastructure, server) for server in infrastructure.file_servers}
    context = _Context(
        infrastructure=infrastructure,
        labels={name: resolve(community.label) for name, community in infrastructure.communities.items()},
        networks=networks,
        transit_addresses={
            name: infrastructure.transit[1 + index] for index, name in enumerate(infrastructure.communities)
        },
        served=served,
        app_vms={
            name: app_vm_names(name, community, members_in[name])
            for name, community in infrastructure.communities.items()
        },
        order={name: number for number, name in enumerate(infrastructure.communities)},
        neighbours=_neighbours(infrastructure),
    )
    members = _members(context)
    shares = tuple(_shares(context))
    node_names = tuple(infrastructure.nodes)
    # One node runs everything until the mapping places VMs (`nodes` in file order, first node first).
    nodes = (_node_plan(context, node_names[0], members, shares),)
    communities = tuple(_planned_community(context, name) for name in infrastructure.communities)
    return Plan(infrastructure.name, nodes, communities, members, shares)


def _neighbours(infrastructure: Infrastructure) -> dict[str, frozenset[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for flow in infrastructure.flows:
        found[flow.source].add(flow.to)
        found[flow.to].add(flow.source)
    return {name: frozenset(found[name]) for name in infrastructure.communities}


def _served_by(infrastructure: Infrastructure, server: str) -> tuple[str, ...]:
    served = {
        grantee.partition(":")[0]
        for share in infrastructure.shares.values()
        if share.server == server
        for grantee in share.access
    }
    return tuple(name for name in infrastructure.communities if name in served)


def _members(context: _Context) -> tuple[Member, ...]:
    return tuple(
        Member(user, community, membership.local_uid or declared.uid, declared.uid)
        for user, declared in context.infrastructure.users.items()
        for community, membership in declared.communities.items()
    )


def _shares(context: _Context) -> list[PlannedShare]:
    resolve = resolve_labels(context.infrastructure)
    planned = []
    for name, share in context.infrastructure.shares.items():
        label = resolve(share.label)
        planned.append(
            PlannedShare(
                name=name,
                server=share.server,
                kind=share.kind,
                label=label,
                path=f"{SHARE_ROOT}/{name}",
                mount=share.mount,
                grants=tuple(_grant(grantee, operations) for grantee, operations in share.access.items()),
                trusted=share.trusted.communities if share.trusted else (),
                context=share_context(name, label),
            )
        )
    return planned


def _grant(grantee: str, operations: tuple[Operation, ...]) -> ShareGrant:
    community, _, user = grantee.partition(":")
    return ShareGrant(community, user or None, frozenset(operations))


def _planned_community(context: _Context, name: str) -> PlannedCommunity:
    return PlannedCommunity(
        name=name,
        label=context.labels[name],
        network=context.networks[name],
        app_vms=tuple(vm for vm, _user in context.app_vms[name]),
        mode=context.infrastructure.communities[name].app_vms.mode,
        gateway=gateway_of(context.networks[name]),
    )


def _node_plan(context: _Context, node: str, members: tuple[Member, ...], shares: tuple[PlannedShare, ...]) -> NodePlan:
    firewalls = tuple(_firewalls(context))
    vms = [
        *(_file_server_vm(context, server) for server in context.infrastructure.file_servers),
        *(_firewall_vm(context, name) for name in context.infrastructure.communities),
        *(vm for name in context.infrastructure.communities for vm in _app_vms(context, name)),
    ]
    return NodePlan(
        node=node,
        vms=tuple(vms),
        bridges=(*_community_bridges(context, vms, firewalls), _transit_bridge(context, firewalls)),
        firewalls=firewalls,
        file_services=tuple(
            _file_service(context, server, members, shares) for server in context.infrastructure.file_servers
        ),
    )


def _nic(network_name: str, network: IPv4Network, address: IPv4Address) -> Nic:
    return Nic(network_name, bridge_of(network), tap_of(address), mac_of(address), address, network.prefixlen)


def _app_vms(context: _Context, community: str) -> list[Vm]:
    declared = context.infrastructure.communities[community]
    network = context.networks[community]
    routes = (Route(EVERYWHERE, gateway_of(network)),)
    return [
        Vm(
            name=name,
            kind=VmKind.APP,
            community=community,
            user=user,
            memory_mib=declared.app_vms.memory_mib,
            cpu_percent=declared.app_vms.cpu_percent,
            nics=(_nic(community, network, app_vm_address(network, index)),),
            routes=routes,
            disk=None,
            label=context.labels[community],
            response=declared.response,
        )
        for index, (name, user) in enumerate(context.app_vms[community])
    ]


def _firewall_vm(context: _Context, community: str) -> Vm:
    network, transit = context.networks[community], context.infrastructure.transit
    peers = context.neighbours[community]
    return Vm(
        name=firewall_name(community),
        kind=VmKind.FW,
        community=community,
        user=None,
        memory_mib=context.infrastructure.firewalls.memory_mib,
        cpu_percent=context.infrastructure.firewalls.cpu_percent,
        nics=(
            _nic(community, network, gateway_of(network)),
            _nic(TRANSIT, transit, context.transit_addresses[community]),
        ),
        routes=tuple(
            Route(context.networks[peer], context.transit_addresses[peer])
            for peer in sorted(peers, key=context.order.__getitem__)
        ),
        disk=None,
        label=context.labels[community],
        response=context.infrastructure.communities[community].response,
    )


def _file_server_vm(context: _Context, server: str) -> Vm:
    declared = context.infrastructure.file_servers[server]
    index = list(context.infrastructure.file_servers).index(server)
    return Vm(
        name=server,
        kind=VmKind.FS,
        community=None,
        user=None,
        memory_mib=declared.memory_mib,
        cpu_percent=declared.cpu_percent,
        nics=tuple(
            _nic(name, context.networks[name], file_server_leg(context.networks[name], index))
            for name in context.served[server]
        ),
        routes=(),
        disk=Disk(f"{server}-data.raw", declared.disk_mib),
        label=None,
        response=Response.ALERT,
    )


def _firewalls(context: _Context) -> list[Firewall]:
    outbound: dict[str, list[FlowRule]] = defaultdict(list)
    inbound: dict[str, list[FlowRule]] = defaultdict(list)
    for rule in _flow_rules(context):
        outbound[rule.source].append(rule)
        inbound[rule.to].append(rule)
    return [
        Firewall(
            vm=firewall_name(name),
            community=name,
            network=context.networks[name],
            inner_address=gateway_of(context.networks[name]),
            transit_address=context.transit_addresses[name],
            outbound=tuple(outbound[name]),
            inbound=tuple(inbound[name]),
        )
        for name in context.infrastructure.communities
    ]


def _flow_rules(context: _Context) -> list[FlowRule]:
    addresses = {
        name: tuple(app_vm_address(context.networks[name], index) for index in range(len(context.app_vms[name])))
        for name in {n for flow in context.infrastructure.flows for n in (flow.source, flow.to)}
    }
    rules = []
    gateways: defaultdict[str, int] = defaultdict(lambda: FIRST_GATEWAY)
    for number, flow in enumerate(context.infrastructure.flows):
        gateway = None
        if flow.inspection is not None:
            gateway = PlannedGateway(gateways[flow.to], number, flow.inspection)
            gateways[flow.to] += 1
        if not (addresses[flow.source] and addresses[flow.to]):
            continue  # a community without an APP-VM: there is nobody to let through, and rules name somebody
        service = resolve_service(context.infrastructure, flow.service)
        rules.append(
            FlowRule(
                source=flow.source,
                source_network=context.networks[flow.source],
                source_addresses=addresses[flow.source],
                to=flow.to,
                to_network=context.networks[flow.to],
                to_addresses=addresses[flow.to],
                protocol=service.protocol,
                port=service.port,
                one_way=flow.direction is Direction.ONE_WAY,
                gateway=gateway,
            )
        )
    return rules


def _community_bridges(context: _Context, vms: list[Vm], firewalls: tuple[Firewall, ...]) -> list[Bridge]:
    on_network: dict[str, list[tuple[Vm, Nic]]] = defaultdict(list)
    for vm in vms:
        for nic in vm.nics:
            on_network[nic.network].append((vm, nic))
    by_community = {firewall.community: firewall for firewall in firewalls}
    return [
        Bridge(
            name=bridge_of(network),
            network=name,
            subnet=network,
            ports=_community_ports(
                on_network[name], context.infrastructure.communities[name].app_vms.peers, by_community[name]
            ),
            ethertypes=tuple(sorted(context.infrastructure.communities[name].ethertypes)),
        )
        for name, network in context.networks.items()
    ]


def _community_ports(cards: list[tuple[Vm, Nic]], peers: Peers, firewall: Firewall) -> tuple[Port, ...]:
    services = tuple(nic.tap for vm, nic in cards if vm.kind is not VmKind.APP)
    apps = tuple(nic.tap for vm, nic in cards if vm.kind is VmKind.APP)
    forwarded = [rule for rule in firewall.inbound if rule.gateway is None]  # a gateway speaks with its own address
    heard = {rule.to_network for rule in firewall.outbound if not rule.one_way} | {r.source_network for r in forwarded}
    reached = {rule.to_network for rule in firewall.outbound} | {r.source_network for r in forwarded if not r.one_way}
    ports = []
    for vm, nic in cards:
        is_app = vm.kind is VmKind.APP
        reachable = services if is_app else apps  # FS-VM and FW-VM have nothing to say to each other
        port = Port(nic.tap, nic.mac, nic.address, reachable, mesh=is_app and peers is Peers.ALL)
        if vm.kind is VmKind.FW:
            port = replace(port, routed_networks=tuple(sorted(heard)), reached_networks=tuple(sorted(reached)))
        ports.append(port)
    return tuple(ports)


def _transit_bridge(context: _Context, firewalls: tuple[Firewall, ...]) -> Bridge:
    taps = {name: tap_of(address) for name, address in context.transit_addresses.items()}
    ports = []
    for firewall in firewalls:
        neighbours = {rule.to for rule in firewall.outbound} | {rule.source for rule in firewall.inbound}
        heard = {rule.to for rule in firewall.outbound} | {r.source for r in firewall.inbound if not r.one_way}
        ports.append(
            Port(
                tap=tap_of(firewall.transit_address),
                mac=mac_of(firewall.transit_address),
                address=firewall.transit_address,
                peers=tuple(taps[name] for name in sorted(neighbours, key=context.order.__getitem__)),
                routed_networks=(firewall.network,),
                unheard_peers=tuple(taps[name] for name in sorted(neighbours - heard, key=context.order.__getitem__)),
            )
        )
    transit = context.infrastructure.transit
    return Bridge(name=bridge_of(transit), network=TRANSIT, subnet=transit, ports=tuple(ports))


def _file_service(
    context: _Context, server: str, members: tuple[Member, ...], shares: tuple[PlannedShare, ...]
) -> FileService:
    served = context.served[server]
    own_shares = tuple(share for share in shares if share.server == server)
    in_service = frozenset(served)
    # A right of one's own on another server's share has no type in this server's policy.
    owners = own_types(own_shares)
    subjects = tuple(
        Subject(
            member.user,
            member.community,
            member.local_uid,
            member.uid,
            subject_context(
                member.user,
                member.community,
                context.labels[member.community],
                own_type=(member.user, member.community) in owners,
            ),
        )
        for member in members
        if member.community in in_service
    )
    labels = context.infrastructure.labels
    return FileService(
        vm=server,
        shares=own_shares,
        members=subjects,
        policy_cil=file_policy(
            levels=len(labels.levels),
            categories=len(labels.categories),
            communities=[(name, context.labels[name]) for name in served],
            members=subjects,
            shares=own_shares,
        ),
    )
