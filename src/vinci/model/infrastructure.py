# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator declares: the typed shape of one infrastructure file.

Everything here is frozen data. Cross-references (a share that names a community) are checked in
`vinci.model.validate`; positions in the file are kept beside the model by `vinci.model.load`. Every key has a
description: the JSON Schema for editors and the reference page are made from them.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from vinci.model.ethertypes import MAX_ETHERTYPES, Ethertype
from vinci.model.inspection import Inspection

MAX_CATEGORIES = 1024
"""SELinux's policy format has no limit; 1,024 is what MLS systems use (c0.c1023)."""
MAX_LEVELS = 1024
MAX_MEMBERSHIPS = 64
"""Communities of one user: each pair of them is a way for information."""

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,30}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, description="name")]
USER_NAME_PATTERN = r"^[a-z_][a-z0-9_-]{0,30}$"
UserName = Annotated[str, Field(pattern=USER_NAME_PATTERN, description="login name")]
Grantee = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9-]{0,30}(:[a-z_][a-z0-9_-]{0,30})?$",
        description="a community, or one of its users as `community:user`",
    ),
]
Integer = Annotated[int, Field(strict=True)]
Uid = Annotated[Integer, Field(ge=1000, le=59_999, description="Unix UID of a person: 1000-59999")]
MOUNT_PATTERN = r"^(/[A-Za-z0-9_.-]+)+$"
MountPoint = Annotated[str, Field(pattern=MOUNT_PATTERN, max_length=200, description="absolute path")]
Port = Annotated[Integer, Field(ge=1, le=65_535)]
Memory = Annotated[Integer, Field(le=1_048_576)]
CpuPercent = Annotated[Integer, Field(ge=5, le=6400, description="limit, in percent of one core")]
Switch = Annotated[bool, Field(strict=True)]
PasswordHash = Annotated[
    str,
    Field(
        pattern=r"^\$argon2id\$v=19\$m=[0-9]{1,7},t=[0-9]{1,3},p=[0-9]{1,2}\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,172}$",
        description="argon2id hash of the password; `vinci passwd USER` makes it",
    ),
]
TimeSpan = Annotated[
    str,
    Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$", description="`06:00-14:30`"),
]


MIN_REASON = 8
REASON_PATTERN = r"\S[\s\S]{6,}\S"
"""So many characters, not counting blanks around them."""


class Declared(BaseModel):
    """Base of every part of the file: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


class Label(Declared):
    """An MLS label: a sensitivity level and a set of categories."""

    level: Name = Field(description="one of `labels.levels`")
    categories: frozenset[Name] = Field(default=frozenset(), description="some of `labels.categories`")


class NamedLabel(Declared):
    """A label given a name; `includes` makes it dominate other named labels too (cycles are errors)."""

    level: Name | None = Field(
        default=None, description="one of `labels.levels`; without it, the highest of the included"
    )
    categories: frozenset[Name] = Field(
        default=frozenset(), description="some of `labels.categories`, besides the included"
    )
    includes: tuple[Name, ...] = Field(default=(), description="named labels that this one dominates")


class Labels(Declared):
    """The lattice: levels from lowest to highest, categories, and labels with names."""

    levels: tuple[Name, ...] = Field(
        min_length=1, max_length=MAX_LEVELS, description="sensitivity levels, lowest first"
    )
    categories: tuple[Name, ...] = Field(default=(), max_length=MAX_CATEGORIES, description="categories, in any order")
    named: dict[Name, NamedLabel] = Field(
        default={}, description="labels with a name, to use wherever a label is wanted"
    )


def _inline_or_named(value: object) -> str:
    return "(inline)" if isinstance(value, (dict, BaseModel)) else "(named)"


LabelRef = Annotated[
    Annotated[Label, Tag("(inline)")] | Annotated[Name, Tag("(named)")], Discriminator(_inline_or_named)
]
"""A label written out, or the name of one."""


class AppVmMode(StrEnum):
    """Who shares an APP-VM."""

    SHARED = "shared"
    PER_USER = "per-user"


class Peers(StrEnum):
    """Which APP-VMs of one community may talk to each other on its VCN."""

    NONE = "none"
    ALL = "all"


class Response(StrEnum):
    """What happens when introspection finds a VM changed; each includes what comes before it."""

    ALERT = "alert"
    """Recorded and shown."""
    QUARANTINE = "quarantine"
    """Its ports pass nothing, its users' rights on files end; it runs on for the investigator."""
    STOP = "stop"
    """It is ended, and not started again before an administrator released it."""


class AppVms(Declared):
    """How many APP-VMs a community has, how big each is, and who shares one."""

    mode: AppVmMode = Field(
        default=AppVmMode.SHARED, description="`shared`: any member may use any; `per-user`: one a member"
    )
    count: Annotated[Integer, Field(ge=1, le=4096)] = Field(default=1, description="how many, in mode `shared`")
    memory_mib: Annotated[Memory, Field(ge=96)] = Field(default=192, description="memory of each, in MiB")
    cpu_percent: CpuPercent = Field(default=100, description="limit of each, in percent of one core")
    peers: Peers = Field(default=Peers.NONE, description="whether they may reach each other on their VCN")


class Community(Declared):
    """Users with the same privileges and trust; one label; one VCN."""

    label: LabelRef = Field(description="label of its users and of everything they run")
    network: IPv4Network | None = Field(
        default=None, description="addresses of its VCN; without it, taken from `address_pool`"
    )
    app_vms: AppVms = Field(default=AppVms(), description="its APP-VMs")
    ethertypes: Annotated[tuple[Ethertype, ...], Field(max_length=MAX_ETHERTYPES)] = Field(
        default=(), description="what its APP-VMs may send each other besides IPv4, e.g. `[0x88b8]`; needs `peers: all`"
    )
    response: Response = Field(
        default=Response.ALERT, description="what happens when introspection finds one of its VMs changed"
    )
    description: str = Field(default="", description="for people")


class Membership(Declared):
    """A user in one community; `local_uid` where that community numbers its users itself."""

    local_uid: Uid | None = Field(
        default=None, description="UID in this community's APP-VMs; without it, the global one"
    )


class User(Declared):
    """A person: one global UID, one or more communities, an argon2 hash (never a password).

    A person in communities of different labels can carry information between them by memory alone. No machine
    prevents that, so the file has to say that the person is trusted, and why.
    """

    uid: Uid = Field(description="global UID, 1000-59999, no other user's")
    communities: Annotated[dict[Name, Membership], Field(min_length=1, max_length=MAX_MEMBERSHIPS)] = Field(
        description="where the user belongs"
    )
    password_hash: PasswordHash | None = Field(
        default=None, description="made by `vinci passwd USER`; without it, no login"
    )
    full_name: str = Field(default="", description="for people")
    trusted: Switch = Field(
        default=False, description="true: trusted not to carry information down between the communities"
    )
    reason: str = Field(default="", description="why the user is trusted, or in several communities")


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
    """Communities trusted to use a share against their labels, and why."""

    communities: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(description="the trusted ones")
    reason: Annotated[str, Field(pattern=REASON_PATTERN)] = Field(description="why, for those who read the proof")


class Share(Declared):
    """A file tree on an FS-VM. `access` names a community (`doctors`) or one of its users (`doctors:anna`)."""

    server: Name = Field(description="one of `file_servers`")
    label: LabelRef = Field(description="label of everything in it")
    access: Annotated[dict[Grantee, Annotated[tuple[Operation, ...], Field(min_length=1)]], Field(min_length=1)] = (
        Field(description="who may do what; everybody else has no access")
    )
    mount: MountPoint = Field(description="where it appears in the APP-VMs")
    kind: ShareKind = Field(default=ShareKind.TREE, description="`tree`, or `homes`: a home directory for each member")
    trusted: Trusted | None = Field(default=None, description="communities that may use it against their labels")
    description: str = Field(default="", description="for people")


class Protocol(StrEnum):
    """Transport protocol of a flow."""

    TCP = "tcp"
    UDP = "udp"


class Service(Declared):
    """A transport service: protocol and port."""

    protocol: Protocol = Field(default=Protocol.TCP, description="`tcp` or `udp`")
    port: Port = Field(description="1-65535")


ServiceName = Annotated[
    str,
    Field(
        pattern=r"^([a-z][a-z0-9-]{0,30}|(tcp|udp)/[0-9]{1,5})$",
        description="a well-known service (`https`), one of `services`, or `tcp/8080`",
    ),
]
ServiceRef = Annotated[
    Annotated[Service, Tag("(inline)")] | Annotated[ServiceName, Tag("(named)")], Discriminator(_inline_or_named)
]
"""A service written out, or the name of one."""


class Direction(StrEnum):
    """Which way information passes: a connection passes it both ways, a diode one way only."""

    BOTH = "both"
    ONE_WAY = "one-way"


class Flow(Declared):
    """Communities `source` may open connections to `service` in community `to`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    source: Name = Field(alias="from", description="the community that opens the connection")
    to: Name = Field(description="the community that offers the service")
    service: ServiceRef = Field(description="what is offered")
    direction: Direction = Field(default=Direction.BOTH, description="`one-way`: a data diode, UDP with no way back")
    inspection: Inspection | None = Field(
        default=None, description="what a gateway lets through; without it, everything"
    )
    upward: Switch = Field(
        default=False, description="true: `from` does not dominate `to` and may open connections all the same"
    )
    trusted: Switch = Field(
        default=False, description="true: the ends are trusted to pass nothing down but what `reason` says"
    )
    reason: str = Field(default="", description="why; needed with `upward` and `trusted`")


class FileServer(Declared):
    """An FS-VM."""

    node: Name | None = Field(default=None, description="where it runs; without it, the mapping decides")
    memory_mib: Annotated[Memory, Field(ge=160)] = Field(default=320, description="memory in MiB")
    disk_mib: Annotated[Integer, Field(ge=64, le=67_108_864)] = Field(
        default=1024, description="disk for its shares in MiB"
    )
    cpu_percent: CpuPercent = Field(default=200, description="limit, in percent of one core")


class Firewalls(Declared):
    """Size of the FW-VMs (one a community)."""

    memory_mib: Annotated[Memory, Field(ge=96)] = Field(default=128, description="memory of each in MiB")
    cpu_percent: CpuPercent = Field(default=100, description="limit of each, in percent of one core")


class Introspection(Declared):
    """How often each VM is looked at from outside, and how soon a VM that is not counts as unchecked."""

    period_ms: Annotated[Integer, Field(ge=100, le=3_600_000)] = Field(
        default=1000, description="mean time from one look at a VM to the next, in ms"
    )
    jitter_percent: Annotated[Integer, Field(ge=0, le=90)] = Field(
        default=20, description="width of the range around the period in which the next look comes at random"
    )
    grace_ms: Annotated[Integer, Field(ge=100, le=3_600_000)] = Field(
        default=2000, description="a VM without a complete look for three periods and this is unchecked, in ms"
    )
    look_ms: Annotated[Integer, Field(ge=1000, le=600_000)] = Field(
        default=10_000, description="a checker that takes longer for one VM is ended and started anew, in ms"
    )


class Node(Declared):
    """A physical machine. `uri` is libvirt's; the default is the agent's own embedded driver."""

    uri: str | None = Field(default=None, description="libvirt connection, e.g. `qemu:///system` or `xen:///system`")
    cpu_cores: Annotated[float, Field(gt=0)] | None = Field(default=None, description="cores that VMs may use")
    memory_mib: Annotated[Integer, Field(gt=0)] | None = Field(
        default=None, description="memory that VMs may use, in MiB"
    )


class LoginRule(Declared):
    """Chooses a community for who names none, by where and when he logs in; the first rule that fits decides."""

    community: Name = Field(description="the community that the login enters, if the user is a member")
    user: UserName | None = Field(default=None, description="only this user")
    node: Name | None = Field(default=None, description="only at this node")
    between: TimeSpan | None = Field(
        default=None,
        description="only at these times of the node's own clock and time zone, `22:00-06:00`; the end is not included",
    )


class Expectation(Declared):
    """A statement about the declaration that `vinci check` tests, e.g. 'nurses cannot write prescriptions'."""

    that: Annotated[str, Field(min_length=1, max_length=500)] = Field(description="the statement")
    reason: str = Field(default="", description="why it matters")
    disable: str | None = Field(default=None, description="why it is not tested now; printed in the report")


class Infrastructure(Declared):
    """The whole file."""

    vinci: Literal[1] = Field(description="version of this format: 1")
    name: Name = Field(description="name of the infrastructure")
    labels: Labels = Field(description="the lattice of labels")
    communities: Annotated[dict[Name, Community], Field(min_length=1)] = Field(description="the user communities")
    users: dict[UserName, User] = Field(default={}, description="the people")
    file_servers: dict[Name, FileServer] = Field(default={}, description="the FS-VMs")
    shares: dict[Name, Share] = Field(default={}, description="the file trees that communities share")
    services: dict[Name, Service] = Field(default={}, description="services besides the well-known ones")
    flows: tuple[Flow, ...] = Field(
        default=(), description="connections permitted between communities; nothing else crosses"
    )
    nodes: Annotated[dict[Name, Node], Field(min_length=1)] = Field(description="the physical machines")
    transit: IPv4Network = Field(default=IPv4Network("10.255.0.0/16"), description="addresses between FW-VMs")
    address_pool: IPv4Network = Field(
        default=IPv4Network("10.64.0.0/10"),
        description="where communities without a `network` get theirs from, a /24 each",
    )
    firewalls: Firewalls = Field(default=Firewalls(), description="size of the FW-VMs")
    introspection: Introspection = Field(default=Introspection(), description="how the VMs are watched from outside")
    login: tuple[LoginRule, ...] = Field(
        default=(), description="which community a login enters; the first that fits decides"
    )
    expect: tuple[Expectation, ...] = Field(default=(), description="statements that `vinci check` tests")
