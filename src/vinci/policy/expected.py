# SPDX-License-Identifier: GPL-2.0-or-later
"""What the declaration says should be possible, straight from the model.

`vinci verify` compares measurements with this. It shares no code with the plan or the policy compiler: an error there
must not hide itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from vinci.model.infrastructure import Flow, Infrastructure, Operation, Peers, Protocol, ShareKind
from vinci.model.inspection import Inspection
from vinci.model.services import resolve_service

NFS_PORTS = frozenset({2049, 20048})
"""What an FS-VM answers on in the VCNs that it serves: NFS (RFC 7530) and, for v3, mountd at its fixed port."""

MEASURED_OPERATIONS = (Operation.READ, Operation.APPEND, Operation.WRITE, Operation.EXECUTE)


def expected_operations(infrastructure: Infrastructure, user: str, community: str, share: str) -> frozenset[Operation]:
    """The operations that a user in a community may do with a share.

    Whoever may write may append too, and whoever may execute may read.
    """
    access = infrastructure.shares[share].access
    declared = set(access.get(community, ())) | set(access.get(f"{community}:{user}", ()))
    if Operation.EXECUTE in declared:
        declared.add(Operation.READ)
    if Operation.WRITE in declared:
        declared.add(Operation.APPEND)
    return frozenset(declared.intersection(MEASURED_OPERATIONS))


def is_homes(infrastructure: Infrastructure, share: str) -> bool:
    """True for a share of home directories."""
    return infrastructure.shares[share].kind is ShareKind.HOMES


@dataclass(frozen=True, slots=True)
class Place:
    """A VM as the declaration knows it: an APP-VM or FW-VM of a community, or a file server."""

    community: str | None
    file_server: str | None
    firewall: bool


def expected_reach(
    infrastructure: Infrastructure, source: Place, target: Place, target_community: str, protocol: Protocol, port: int
) -> bool:
    """Whether a connection from one VM to an address of another VM in `target_community`'s network is declared."""
    if source.community is None or source.firewall or target.firewall:
        return False
    if target.file_server is not None:
        served = _is_served(infrastructure, target.file_server, source.community)
        return target_community == source.community and served and protocol is Protocol.TCP and port in NFS_PORTS
    if target.community == source.community:
        return infrastructure.communities[source.community].app_vms.peers is Peers.ALL
    return _flow(infrastructure, source, target, protocol, port) is not None


def expected_ethertype(
    infrastructure: Infrastructure, source: Place, target: Place, network: str, ethertype: int
) -> bool:
    """Whether a VM may send another one frames of an ethertype, neither IPv4 nor ARP, on a community's network."""
    if source.community is None or source.community != target.community or source.community != network:
        return False
    if source.firewall or target.firewall:
        return False
    community = infrastructure.communities[network]
    return ethertype in community.ethertypes and community.app_vms.peers is Peers.ALL


def expected_inspection(
    infrastructure: Infrastructure, source: Place, target: Place, protocol: Protocol, port: int
) -> Inspection | None:
    """What a gateway on the way from one VM to another has to let through; None where none is declared."""
    flow = _flow(infrastructure, source, target, protocol, port)
    return flow.inspection if flow is not None else None


def _flow(infrastructure: Infrastructure, source: Place, target: Place, protocol: Protocol, port: int) -> Flow | None:
    for flow in infrastructure.flows:
        service = resolve_service(infrastructure, flow.service)
        between = (flow.source, flow.to) == (source.community, target.community)
        if between and (service.protocol, service.port) == (protocol, port):
            return flow
    return None


def _is_served(infrastructure: Infrastructure, server: str, community: str) -> bool:
    return any(
        grantee.partition(":")[0] == community
        for share in infrastructure.shares.values()
        if share.server == server
        for grantee in share.access
    )
