# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares what is enforced with what was declared: compiled policies and rule sets read back, against the model.

The declaration is read by `vinci.policy.expected`, the artefacts by `vinci.policy.readback_files` and
`vinci.policy.readback_rules`; none of them shares code with what makes the artefacts. The same from here on: the
place and address of each VM, and the tables of contexts, are taken from the plan, because guests get them from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vinci.model.infrastructure import Direction, Infrastructure, Operation, Protocol
from vinci.model.inspection import Inspection
from vinci.model.labels import Lattice, permitted
from vinci.model.services import resolve_service
from vinci.plan.firewall_opinion import UNDECLARED_PORT, check_firewalls
from vinci.plan.frame_opinion import check_frames
from vinci.plan.gateway_table import gateway_table
from vinci.plan.graph_opinion import Crossing, files_unlike_graph, packets_unlike_graph
from vinci.plan.own_opinion import check_own_traffic
from vinci.plan.types import TRANSIT, FileService, NodePlan, Plan, Vm, VmKind
from vinci.plan.walk import Arrival, Walk
from vinci.policy.expected import Place, expected_inspection, expected_operations, expected_reach
from vinci.policy.graph import HopKind
from vinci.policy.readback_files import Context, FilePolicy, Level, ReadbackError, Rights, steps
from vinci.policy.readback_gateways import ReadGateway, Way, differences, read_gateways


class Artefact(StrEnum):
    """What was read back."""

    POLICY = "SELinux policy"
    RULES = "packet rules"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An artefact says something else than the declaration: a defect of Vinci, never of the file."""

    artefact: Artefact
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.artefact} of {self.where}: {self.text}"


# -- files -----------------------------------------------------------------------------------------------------------

_KEEPERS: Mapping[str, frozenset[tuple[str, str]]] = {
    "vinci_kernel_t": frozenset({("dir", "getattr")}),
    "vinci_decode_t": frozenset(("dir", permission) for permission in ("getattr", "search", "read", "open")),
    "vinci_compare_t": frozenset(("file", permission) for permission in ("getattr", "open", "read")),
}
"""The server's own types and the most that they may do with a share; see docs/explanation/proof-of-flows.md."""
_MANAGER, _NEVER_BY_MANAGER = "vinci_manage_t", frozenset({"read", "write", "execute", "map", "ioctl"})


def check_files(infrastructure: Infrastructure, service: FileService, policy: Any) -> Iterator[Disagreement]:
    """What the binary policy of one FS-VM says otherwise. `policy` is a `setools.SELinuxPolicy` of it."""
    try:
        yield from (Disagreement(Artefact.POLICY, service.vm, text) for text in _files(infrastructure, service, policy))
    except ReadbackError as error:
        yield Disagreement(Artefact.POLICY, service.vm, str(error))


def _files(infrastructure: Infrastructure, service: FileService, policy: Any) -> Iterator[str]:
    read = FilePolicy(policy)
    lattice = Lattice(infrastructure.labels)
    shares = {share.name: read.context(share.context) for share in service.shares}
    in_use = _permissions_in_use(read, shares.values())
    own_types = set()
    named = _named(infrastructure, shares)
    compared: set[tuple[str, str, Level, frozenset[str]]] = set()
    able: dict[tuple[str, str], frozenset[Operation]] = {}
    for member in service.members:
        who = f"{member.community}:{member.user}"
        try:
            subject = read.context(member.context)
        except ReadbackError as error:
            yield f"{who} has no subject: {error}"
            continue
        own_types.add(subject.type)
        # Members who are one and the same to the policy and to the file are compared once.
        alike = (member.community, subject.type, subject.level, named.get(who, frozenset()))
        if alike in compared and not read.is_personal:
            continue
        compared.add(alike)
        for name, share in shares.items():
            wanted = _declared(infrastructure, member.user, member.community, name)
            labels = _by_labels(infrastructure, lattice, member.community, name)
            rights = read.rights(subject, share)
            if rights.able:
                able[member.community, name] = able.get((member.community, name), frozenset()) | rights.able
            faults = [
                *_differences(rights, wanted),
                *_excess("types alone", read.by_type(subject, share), wanted),
                *_names_shown(read, subject, share, wanted),
                *_excess("labels alone", read.by_label(subject, share, in_use), labels),
            ]
            yield from (f"{who} on share {name}: {text}" for text in faults)
    subjects = {(member.community, member.user) for member in service.members}
    yield from files_unlike_graph(infrastructure, shares, subjects, able)
    yield from _memberships(infrastructure, service, read)
    yield from _others(infrastructure, service, read, frozenset(own_types))


def _named(infrastructure: Infrastructure, shares: Iterable[str]) -> dict[str, frozenset[str]]:
    """The shares whose `access` names a grantee."""
    found: dict[str, frozenset[str]] = {}
    for share in shares:
        for grantee in infrastructure.shares[share].access:
            found[grantee] = found.get(grantee, frozenset()) | {share}
    return found


def _declared(infrastructure: Infrastructure, user: str, community: str, share: str) -> frozenset[Operation]:
    operations = expected_operations(infrastructure, user, community, share)
    access = infrastructure.shares[share].access
    runs = any(Operation.EXECUTE in access.get(each, ()) for each in (community, f"{community}:{user}"))
    return operations | ({Operation.EXECUTE} if runs else set())


def _by_labels(infrastructure: Infrastructure, lattice: Lattice, community: str, name: str) -> frozenset[Operation]:
    """What the labels alone permit: everything to those whom the file trusts."""
    share = infrastructure.shares[name]
    if share.trusted is not None and community in share.trusted.communities:
        return frozenset(Operation)
    labels = lattice.resolve(infrastructure.communities[community].label), lattice.resolve(share.label)
    return frozenset(operation for operation in Operation if permitted(operation, *labels))


def _permissions_in_use(read: FilePolicy, shares: Iterable[Context]) -> frozenset[tuple[str, str]]:
    """What some user may do with some share, by type: these are the permissions that labels have to bound."""
    own = {*_KEEPERS, _MANAGER}
    return frozenset(
        permission
        for share in shares
        for source, permissions in read.reaching(share.type).items()
        if source not in own
        for permission in permissions
    )


def _differences(found: Rights, wanted: frozenset[Operation]) -> Iterator[str]:
    for operation in sorted(wanted - found.able):
        yield f"{operation} is declared and not possible"
    for operation in sorted(found.able - wanted):
        yield f"{operation} is possible and not declared"
    for operation in sorted(found.touching - found.able - wanted):
        yield f"steps of {operation} are possible and not declared"
    if found.looking and not wanted:
        yield "names and sizes can be seen though nothing is declared"


def _excess(barrier: str, found: frozenset[Operation], wanted: frozenset[Operation]) -> Iterator[str]:
    """One of the two barriers lets more through than the declaration, though the other may hold."""
    for operation in sorted(found - wanted):
        yield f"{barrier} would permit {operation}"


def _names_shown(read: FilePolicy, subject: Context, share: Context, wanted: frozenset[Operation]) -> Iterator[str]:
    if not wanted and subject.type in read.reaching(share.type):
        yield "types alone would show names and sizes"


def _memberships(infrastructure: Infrastructure, service: FileService, read: FilePolicy) -> Iterator[str]:
    served = {member.community for member in service.members}
    declared = {
        (user, community)
        for user, entry in infrastructure.users.items()
        for community in entry.communities
        if community in served
    }
    found = {
        (user.removesuffix("_u").removeprefix("U"), role.removesuffix("_r"))
        for user, role in read.memberships()
        if user != "vinci_u"
    }
    yield from (f"{user} can act in {community}: not declared" for user, community in sorted(found - declared))
    yield from (f"{user} cannot act in {community}" for user, community in sorted(declared - found))


def _others(
    infrastructure: Infrastructure, service: FileService, read: FilePolicy, own_types: frozenset[str]
) -> Iterator[str]:
    """Types of nobody in particular: they touch a share as little as they have to, and none becomes another."""
    communities = {f"{name}_t": name for name in infrastructure.communities}
    for share in service.shares:
        mounting = {f"{grant.community}_mount_t" for grant in share.grants}
        for source, permissions in read.reaching(share.context.split(":")[2]).items():
            excess: frozenset[object]
            if source in communities:
                excess = steps(permissions) - _declared(infrastructure, "", communities[source], share.name)
            elif source in own_types:
                continue  # measured with its user
            elif source in mounting:
                excess = permissions - {("dir", "getattr"), ("dir", "search")}
            elif source == _MANAGER:
                excess = frozenset(p for p in permissions if p[0] != "dir" and p[1] in _NEVER_BY_MANAGER)
            else:
                excess = permissions - _KEEPERS.get(source, frozenset())
            if excess:
                yield f"{source} has more than it needs on share {share.name}: {sorted(map(str, excess))}"
    for source in sorted(set(read.changes_of_subject()) - {*_KEEPERS, _MANAGER}):
        yield f"{source} may become another subject"


# -- packets ---------------------------------------------------------------------------------------------------------


def check_packets(infrastructure: Infrastructure, plan: Plan) -> Iterator[Disagreement]:
    """What the rules of bridges and FW-VMs say otherwise, for every pair of VMs and every declared service."""
    for node in plan.nodes:
        try:
            yield from (
                Disagreement(Artefact.RULES, f"node {node.node}", text) for text in _packets(infrastructure, node)
            )
        except ReadbackError as error:
            yield Disagreement(Artefact.RULES, f"node {node.node}", str(error))


def _packets(infrastructure: Infrastructure, node: NodePlan) -> Iterator[str]:
    yield from check_firewalls(infrastructure, node)
    walk = Walk(node)
    gateways = {each.vm: read_gateways(gateway_table(each)) for each in node.firewalls}
    declared_services = _services(infrastructure)
    one_way = _one_way(infrastructure)
    crossings: set[Crossing] = set()
    for source, card in walk.cards:
        if source.kind is not VmKind.APP:
            continue
        for target, other in walk.cards:
            if target is source or other.network == TRANSIT:
                continue
            for protocol, port in _asked(walk, source, target, declared_services):
                text = f"{source.name} -> {target.name} at {other.address} {protocol}/{port}"
                places = (_place(source), _place(target))
                declared = expected_reach(infrastructure, *places, other.network, protocol, port)
                found = walk.crosses(source, target, other, protocol, port)
                if (found is not None) != declared:
                    yield f"{text}: " + ("is declared and dropped" if declared else "passes and is not declared")
                if found is not None:
                    diode = (source.community, target.community, protocol, port) in one_way
                    answered = walk.answers(source, target, other, protocol, port, found)
                    if answered == diode:
                        yield f"{text}: answers {'pass' if diode else 'are dropped'}"
                    crossings |= _crossings(source, target, protocol, port, answered)
                    inspection = expected_inspection(infrastructure, *places, protocol, port)
                    way = Way(card.address, other.address, port)
                    yield from (f"{text}: {each}" for each in _inspected(inspection, found, way, gateways))
    running = {vm.community for vm in node.vms if vm.kind is VmKind.APP}
    yield from packets_unlike_graph(infrastructure, running, crossings)
    yield from check_frames(infrastructure, node, walk.bridges)
    yield from check_own_traffic(infrastructure, node, walk.firewalls, gateways)


def _crossings(source: Vm, target: Vm, protocol: Protocol, port: int, answered: bool) -> set[Crossing]:
    """The hops that a first packet which arrived, and the answer to it, stand for."""
    start, end = source.community, target.community
    if start is None or end is None or start == end:
        return set()
    request: Crossing = (HopKind.REQUEST, start, end, protocol, port)
    return {request, (HopKind.ANSWER, end, start, protocol, port)} if answered else {request}


def _inspected(
    inspection: Inspection | None, found: Arrival, way: Way, gateways: Mapping[str, Mapping[int, ReadGateway]]
) -> Iterator[str]:
    """What the gateway on the way does otherwise than the flow's inspection says."""
    if inspection is None or found.gateway is None:
        if inspection is not None:
            yield f"passes without its {inspection.gateway} gateway"
        elif found.gateway is not None:
            yield "is led to a gateway that is not declared"
        return
    firewall, number = found.gateway
    gateway = gateways[firewall].get(number)
    if gateway is None:
        yield f"is led to gateway {number}, which is not in the table"
    else:
        yield from differences(gateway, inspection, way)


_Services = Mapping[tuple[str | None, str | None], frozenset[tuple[Protocol, int]]]


def _services(infrastructure: Infrastructure) -> _Services:
    """The services that one community's flows to another name."""
    found: dict[tuple[str | None, str | None], frozenset[tuple[Protocol, int]]] = {}
    for flow in infrastructure.flows:
        service = resolve_service(infrastructure, flow.service)
        pair = (flow.source, flow.to)
        found[pair] = found.get(pair, frozenset()) | {(service.protocol, service.port)}
    return found


def _asked(walk: Walk, source: Vm, target: Vm, declared: _Services) -> Iterable[tuple[Protocol, int]]:
    """The services to try: those declared, every port that a rule on the way names, and one that nobody named.

    Bridges know no ports: what an FS-VM offers, and an FW-VM does not, is left to its own rules.
    """
    if target.kind is VmKind.FS:
        return [(Protocol.TCP, 2049)]
    if target.kind is VmKind.FW:
        return [] if target.community == source.community else [(Protocol.TCP, UNDECLARED_PORT)]
    if walk.is_apart(source, target, target.nics[0]):
        return sorted(declared.get((source.community, target.community), ()))
    ports = {UNDECLARED_PORT, *walk.ports(source.community), *walk.ports(target.community)}
    tried = {(protocol, port) for protocol in Protocol for port in ports}
    return sorted(tried | declared.get((source.community, target.community), frozenset()))


def _one_way(infrastructure: Infrastructure) -> frozenset[tuple[str | None, str | None, Protocol, int]]:
    services = [(flow, resolve_service(infrastructure, flow.service)) for flow in infrastructure.flows]
    return frozenset(
        (flow.source, flow.to, service.protocol, service.port)
        for flow, service in services
        if flow.direction is Direction.ONE_WAY
    )


def _place(vm: Vm) -> Place:
    return Place(vm.community, vm.name if vm.kind is VmKind.FS else None, vm.kind is VmKind.FW)
