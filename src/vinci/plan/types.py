# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan: what has to exist on a node, as frozen data. The same file gives the same plan, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from vinci.model.infrastructure import AppVmMode, Operation, Protocol, Response, ShareKind
from vinci.model.inspection import HttpInspection, ModbusInspection
from vinci.model.labels import PlannedLabel as PlannedLabel

TRANSIT = "transit"
"""Name of the network that carries only FW-VM to FW-VM traffic."""


class VmKind(StrEnum):
    """The three kinds of VM that a node runs (the A-VM is the node's agent itself)."""

    APP = "APP-VM"
    FS = "FS-VM"
    FW = "FW-VM"


@dataclass(frozen=True, slots=True)
class Route:
    """A static route inside a guest."""

    network: IPv4Network
    via: IPv4Address


@dataclass(frozen=True, slots=True)
class Nic:
    """One network card: the port (tap) it hangs on, its MAC and its one address. All three belong together."""

    network: str
    bridge: str
    tap: str
    mac: str
    address: IPv4Address
    prefix: int


@dataclass(frozen=True, slots=True)
class Disk:
    """A persistent disk of a VM, kept in the node's state directory under `name`."""

    name: str
    size_mib: int


@dataclass(frozen=True, slots=True)
class Vm:
    """One virtual machine of a node."""

    name: str
    kind: VmKind
    community: str | None
    user: str | None
    memory_mib: int
    cpu_percent: int
    nics: tuple[Nic, ...]
    routes: tuple[Route, ...]
    disk: Disk | None
    label: PlannedLabel | None
    response: Response


@dataclass(frozen=True, slots=True)
class Port:
    """What one port of a bridge may claim, and the ports that it may reach on the same bridge.

    `peers` holds tap names. Ports with `mesh` reach one another besides: what would be a million names for a thousand
    APP-VMs is one flag each. An FW-VM's port has `routed_networks`: frames from it may carry source addresses of these
    (it forwards), never one that belongs to another port of this bridge. Frames to it may carry target addresses of
    `reached_networks`, or of the same where that is None. To its `unheard_peers` it forwards nothing.
    """

    tap: str
    mac: str
    address: IPv4Address
    peers: tuple[str, ...]
    routed_networks: tuple[IPv4Network, ...] = ()
    mesh: bool = False
    reached_networks: tuple[IPv4Network, ...] | None = None
    unheard_peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bridge:
    """One bridge per (network, node) and the ports that hang on it.

    Ports with `mesh` may send each other frames of `ethertypes` besides IPv4 and ARP.
    """

    name: str
    network: str
    subnet: IPv4Network
    ports: tuple[Port, ...]
    ethertypes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedGateway:
    """The gateway of an inspected flow, on the FW-VM of the flow's target.

    `number` is its TCP port there and its UID; `flow` is the flow's place in the file.
    """

    number: int
    flow: int
    inspection: ModbusInspection | HttpInspection


@dataclass(frozen=True, slots=True)
class FlowRule:
    """One permitted flow as an FW-VM sees it."""

    source: str
    source_network: IPv4Network
    source_addresses: tuple[IPv4Address, ...]
    to: str
    to_network: IPv4Network
    to_addresses: tuple[IPv4Address, ...]
    protocol: Protocol
    port: int
    one_way: bool
    gateway: PlannedGateway | None = None


@dataclass(frozen=True, slots=True)
class Firewall:
    """The rules of one FW-VM: both sides must permit a flow, everything else is dropped and logged."""

    vm: str
    community: str
    network: IPv4Network
    inner_address: IPv4Address
    transit_address: IPv4Address
    outbound: tuple[FlowRule, ...]
    inbound: tuple[FlowRule, ...]


@dataclass(frozen=True, slots=True)
class ShareGrant:
    """Who may do what with a share: a whole community, or one of its users when `user` is set."""

    community: str
    user: str | None
    operations: frozenset[Operation]


@dataclass(frozen=True, slots=True)
class PlannedShare:
    """A share on its FS-VM."""

    name: str
    server: str
    kind: ShareKind
    label: PlannedLabel
    path: str
    mount: str
    grants: tuple[ShareGrant, ...]
    trusted: tuple[str, ...]
    context: str


@dataclass(frozen=True, slots=True)
class Member:
    """A user in a community, with the UIDs in its APP-VMs and on the FS-VMs."""

    user: str
    community: str
    local_uid: int
    uid: int


@dataclass(frozen=True, slots=True)
class Subject(Member):
    """A member as one FS-VM knows him: rights of one's own on its shares decide over the type in the context."""

    context: str


@dataclass(frozen=True, slots=True)
class FileService:
    """What one FS-VM serves: its policy (CIL text), its shares, the members of the communities it serves."""

    vm: str
    shares: tuple[PlannedShare, ...]
    members: tuple[Subject, ...]
    policy_cil: str


@dataclass(frozen=True, slots=True)
class PlannedCommunity:
    """A community with everything derived: label numbers, network, addresses."""

    name: str
    label: PlannedLabel
    network: IPv4Network
    app_vms: tuple[str, ...]
    mode: AppVmMode
    gateway: IPv4Address


@dataclass(frozen=True, slots=True)
class NodePlan:
    """All that one node has to run."""

    node: str
    vms: tuple[Vm, ...]
    bridges: tuple[Bridge, ...]
    firewalls: tuple[Firewall, ...]
    file_services: tuple[FileService, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan of an infrastructure."""

    name: str
    nodes: tuple[NodePlan, ...]
    communities: tuple[PlannedCommunity, ...]
    members: tuple[Member, ...]
    shares: tuple[PlannedShare, ...]
