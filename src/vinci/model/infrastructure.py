# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator declares: the typed shape of one infrastructure file.

Everything here is frozen data. Cross-references (a share that names a community) are checked in
`vinci.model.validate`; positions in the file are kept beside the model by `vinci.model.load`.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_CATEGORIES = 1024
"""SELinux's policy format has no limit; 1,024 is what MLS systems use (c0.c1023)."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$", description="lower-case name, 1-31 characters")]
UserName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,30}$", description="a Unix login name")]
Uid = Annotated[int, Field(ge=1000, le=59_999, description="Unix UID of a person: 1000-59999")]
MountPoint = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_.-]+)+$", max_length=200, description="absolute path")]
Port = Annotated[int, Field(ge=1, le=65_535)]


class Declared(BaseModel):
    """Base of every part of the file: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


class Label(Declared):
    """An MLS label: a sensitivity level and a set of categories."""

    level: Name
    categories: frozenset[Name] = frozenset()


class NamedLabel(Declared):
    """A label given a name; `includes` makes it dominate other named labels too (cycles are errors)."""

    level: Name | None = None
    categories: frozenset[Name] = frozenset()
    includes: tuple[Name, ...] = ()


class Labels(Declared):
    """The lattice: levels from lowest to highest, categories, and labels with names."""

    levels: tuple[Name, ...] = Field(min_length=1, description="lowest first")
    categories: tuple[Name, ...] = ()
    named: dict[Name, NamedLabel] = {}


LabelRef = Label | Name


class AppVmMode(StrEnum):
    """Who shares an APP-VM."""

    SHARED = "shared"
    PER_USER = "per-user"


class Peers(StrEnum):
    """Which APP-VMs of one community may talk to each other on its VCN."""

    NONE = "none"
    ALL = "all"


class Response(StrEnum):
    """What happens when introspection finds a VM changed."""

    ALERT = "alert"
    QUARANTINE = "quarantine"
    STOP = "stop"


class AppVms(Declared):
    """How many APP-VMs a community has, how big each is, and who shares one."""

    mode: AppVmMode = AppVmMode.SHARED
    count: Annotated[int, Field(ge=1, le=4096)] = 1
    memory_mib: Annotated[int, Field(ge=96, le=1_048_576)] = 192
    cpu_percent: Annotated[int, Field(ge=5, le=6400, description="limit, in percent of one core")] = 100
    peers: Peers = Peers.NONE


class Community(Declared):
    """Users with the same privileges and trust; one label; one VCN."""

    label: LabelRef
    network: IPv4Network | None = None
    app_vms: AppVms = AppVms()
    response: Response = Response.ALERT
    description: str = ""


class Membership(Declared):
    """A user in one community; `local_uid` where that community numbers its users itself."""

    local_uid: Uid | None = None


class User(Declared):
    """A person: one global UID, one or more communities, an argon2 hash (never a password)."""

    uid: Uid
    communities: dict[Name, Membership]
    password_hash: Annotated[str, Field(pattern=r"^\$argon2id\$")] | None = None
    full_name: str = ""


class Operation(StrEnum):
    """What may be done with a share."""

    READ = "read"
    WRITE = "write"
    APPEND = "append"
    EXECUTE = "execute"


class ShareKind(StrEnum):
    """A plain tree, or one home directory per member of the share's one community."""

    TREE = "tree"
    HOMES = "homes"


class Trusted(Declared):
    """A community trusted to pass a share or flow against its label, and why."""

    communities: tuple[Name, ...]
    reason: Annotated[str, Field(min_length=8)]


class Share(Declared):
    """A file tree on an FS-VM. `access` names a community (`doctors`) or one of its users (`doctors:anna`)."""

    server: Name
    label: LabelRef
    access: dict[str, tuple[Operation, ...]]
    mount: MountPoint
    kind: ShareKind = ShareKind.TREE
    trusted: Trusted | None = None
    description: str = ""


class Protocol(StrEnum):
    """Transport protocol of a flow."""

    TCP = "tcp"
    UDP = "udp"


class Service(Declared):
    """A transport service: protocol and port."""

    protocol: Protocol = Protocol.TCP
    port: Port


ServiceRef = Service | Annotated[str, Field(pattern=r"^([a-z][a-z0-9-]*|(tcp|udp)/[0-9]{1,5})$")]


class Direction(StrEnum):
    """Which way information passes: a connection passes it both ways, a diode one way only."""

    BOTH = "both"
    ONE_WAY = "one-way"


class Flow(Declared):
    """Communities `source` may open connections to `service` in community `to`."""

    source: Name = Field(alias="from")
    to: Name
    service: ServiceRef
    direction: Direction = Direction.BOTH
    inspection: dict[str, object] | None = None
    upward: bool = Field(False, description="true: `from` is below `to` and may open connections all the same")
    reason: str = ""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class FileServer(Declared):
    """An FS-VM."""

    node: Name | None = None
    memory_mib: Annotated[int, Field(ge=160, le=1_048_576)] = 320
    disk_mib: Annotated[int, Field(ge=64, le=67_108_864)] = 1024
    cpu_percent: Annotated[int, Field(ge=5, le=6400)] = 200


class Firewalls(Declared):
    """Size of the FW-VMs (one a community)."""

    memory_mib: Annotated[int, Field(ge=96, le=1_048_576)] = 128
    cpu_percent: Annotated[int, Field(ge=5, le=6400)] = 100


class Node(Declared):
    """A physical machine. `uri` is libvirt's; the default is the agent's own embedded driver."""

    uri: str | None = None
    cpu_cores: Annotated[float, Field(gt=0)] | None = None
    memory_mib: Annotated[int, Field(gt=0)] | None = None


class LoginRule(Declared):
    """Chooses a community by where and when somebody logs in; the first rule that fits decides."""

    community: Name
    user: UserName | None = None
    node: Name | None = None
    between: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$")] | None = (
        None
    )


class Expectation(Declared):
    """A statement about the declaration that `vinci check` tests, e.g. 'nurses cannot write prescriptions'."""

    that: str
    reason: str = ""
    disable: str | None = None


class Infrastructure(Declared):
    """The whole file."""

    vinci: Literal[1]
    name: Name
    labels: Labels
    communities: dict[Name, Community]
    users: dict[UserName, User] = {}
    file_servers: dict[Name, FileServer] = {}
    shares: dict[Name, Share] = {}
    services: dict[Name, Service] = {}
    flows: tuple[Flow, ...] = ()
    nodes: dict[Name, Node]
    transit: IPv4Network = IPv4Network("10.255.0.0/16")
    address_pool: IPv4Network = IPv4Network("10.64.0.0/10")
    firewalls: Firewalls = Firewalls()
    login: tuple[LoginRule, ...] = ()
    expect: tuple[Expectation, ...] = ()
