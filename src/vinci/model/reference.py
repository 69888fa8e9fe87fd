# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference page of the infrastructure file and its JSON Schema, made from the model so that no key is missing.

Run `python -m vinci.model.reference docs/reference` after each change of the model; a test tells when it was forgotten.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import Enum
from ipaddress import IPv4Network
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vinci.model.ethertypes import HIGHEST, LOWEST, MAX_ETHERTYPES, REFUSED, Refusal, ethertype_text
from vinci.model.infrastructure import (
    MIN_REASON,
    MOUNT_PATTERN,
    NAME_PATTERN,
    USER_NAME_PATTERN,
    AppVms,
    Community,
    Expectation,
    FileServer,
    Firewalls,
    Flow,
    Infrastructure,
    Introspection,
    Label,
    Labels,
    LoginRule,
    Membership,
    NamedLabel,
    Node,
    Service,
    Share,
    Trusted,
    User,
)
from vinci.model.inspection import HttpInspection, ModbusFunction, ModbusInspection
from vinci.model.labels import RULES
from vinci.model.schema import schema
from vinci.model.services import WELL_KNOWN
from vinci.model.source import MAX_BYTES

PAGE = "infrastructure-file.md"
SCHEMA = "infrastructure.schema.json"

PARTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The file", Infrastructure),
    ("labels", Labels),
    ("labels.named.NAME", NamedLabel),
    ("A label written out", Label),
    ("communities.NAME", Community),
    ("communities.NAME.app_vms", AppVms),
    ("users.NAME", User),
    ("users.NAME.communities.NAME", Membership),
    ("file_servers.NAME", FileServer),
    ("shares.NAME", Share),
    ("shares.NAME.trusted", Trusted),
    ("services.NAME", Service),
    ("flows[]", Flow),
    ("flows[].inspection with gateway: modbus", ModbusInspection),
    ("flows[].inspection with gateway: http", HttpInspection),
    ("nodes.NAME", Node),
    ("firewalls", Firewalls),
    ("introspection", Introspection),
    ("login[]", LoginRule),
    ("expect[]", Expectation),
)
"""Every mapping of the file, in the order of the page."""

_PATTERNS = {NAME_PATTERN: "name", USER_NAME_PATTERN: "login name", MOUNT_PATTERN: "absolute path"}

_HEAD = f"""\
# The infrastructure file

<!-- Made by `python -m vinci.model.reference docs/reference` from the model; do not edit. -->

One YAML file declares everything. `vinci check FILE` tells all that is wrong with it at once, each with its line and
what would be right; `vinci schema` prints the JSON Schema for editors ([{SCHEMA}]({SCHEMA})).
Put this line at the top of the file for editors that use the YAML language server:

    # yaml-language-server: $schema=infrastructure.schema.json

The file is UTF-8, at most {MAX_BYTES // 1024 // 1024} MiB. Unknown and duplicate keys are errors. Aliases (`*x`), merge
keys (`<<`) and tags (`!x`) are not read. Characters that no reader sees (controls, marks of direction) are errors.
`true` and `false` are the only switches; `yes`, `no` and `on` are words. Numbers are written without quotes; `0x88b8`
is one. A *name* is lower-case letters, digits and hyphens, a letter first, at most 31.
"""

_LABELS = """\
A label is one of the `levels` and a set of `categories`. One label *dominates* another when its level is at least as
high and it has all its categories. What a community may do with a share follows from that, whatever `access` says:

{rules}

A connection passes information both ways, so between different labels it needs `trusted: true` and a `reason`; a
`one-way` flow to a dominating label does not. A person in communities of different labels needs them too.
"""

_ETHERTYPES = """\
`ethertypes` are numbers from {lowest} to {highest}, at most {most}, none twice: `[0x88b8, 0x88ba]` are GOOSE and
sampled values, `0x8892` is PROFINET. The community's APP-VMs may send each other frames of these, to one of them or to
a group, each from its own MAC and without a VLAN tag. No FS-VM's and no FW-VM's port passes one, so none leaves the
community. Without `peers: all` there is nobody to send them to. Programs exchange them by packet sockets: only root may
open one in an APP-VM; introspection notes one that is bound to a declared ethertype, and takes any other for listening.
Not to be declared is what

{refused}
"""

_FLOWS = """\
A flow is TCP or UDP over IPv4. No key declares another protocol: of ICMP only errors about a flow's own packets pass,
and nothing but IPv4 gets from one community to another, whatever the file says. A `reason` has at least {minimum}
characters besides blanks, here and wherever trust is declared.
"""

_EXPECTATIONS = """\
The statements that `that` may hold:

| statement | example |
|---|---|
| [only] WHO can\\|cannot OPERATIONS SHARES | `only doctors can write prescriptions` |
| [only] WHO can\\|cannot reach COMMUNITIES [by SERVICES] | `doctors cannot reach administration by https` |
| nothing of COMMUNITIES reaches COMMUNITIES [except WAYS] | `nothing of doctors reaches sales except billing` |
| COMMUNITIES reaches COMMUNITIES only by WAYS | `database reaches scada only by modbus read` |

WHO is a list of communities, members (`doctors:anna`) or users, or `nobody`, or `everybody`. OPERATIONS are read,
write, append and execute; who may write may append, and who may execute may read. SHARES is a list, or `anything`.
WAYS are shares, users, services and communities on the way; `share log` or `user log` where a name means two things.
`modbus read` is a flow inspected by a gateway that lets only reading functions through. Items are joined by commas,
`and` or `or`.
"""


def reference_page() -> str:
    """The reference page as Markdown."""
    return "\n".join(_page())


def _page() -> Iterator[str]:
    yield _HEAD
    for title, model in PARTS:
        yield f"## {title}"
        yield ""
        yield " ".join((model.__doc__ or "").split())
        yield ""
        yield "| key | value | default | meaning |"
        yield "|---|---|---|---|"
        for name, field in model.model_fields.items():
            key, value = field.alias or name, _value(field.annotation, field)
            yield f"| `{key}` | {value} | {_default(field)} | {field.description or ''} |"
        yield ""
        if model is Labels:
            rules = "\n".join(f"- `{operation}`: {rule}" for operation, rule in RULES.items())
            yield _LABELS.format(rules=rules)
        elif model is Community:
            yield _ethertypes()
        elif model is Service:
            services = ", ".join(f"`{name}` {known.protocol}/{known.port}" for name, known in WELL_KNOWN.items())
            yield f"Well-known, and not to be declared: {services}.\n"
        elif model is Flow:
            yield _FLOWS.format(minimum=MIN_REASON)
        elif model is ModbusInspection:
            functions = ", ".join(f"`{function}` ({function.code})" for function in ModbusFunction)
            yield f"Functions: {functions}.\n"
        elif model is Expectation:
            yield _EXPECTATIONS


def _ethertypes() -> str:
    refused = "\n".join(
        f"- {why}: "
        + ", ".join(f"`{ethertype_text(number)}` {what}" for number, (what, each) in REFUSED.items() if each is why)
        for why in Refusal
    )
    lowest, highest = ethertype_text(LOWEST), ethertype_text(HIGHEST)
    return _ETHERTYPES.format(lowest=lowest, highest=highest, most=MAX_ETHERTYPES, refused=refused)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*needed*"
    default = field.default
    if default is None or default == "" or isinstance(default, BaseModel):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, (frozenset, tuple)):
        return "`[]`"
    return f"`{default}`"


def _value(kind: Any, field: FieldInfo | None = None) -> str:
    """The type of a value in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [limit for item in arguments[1:] if isinstance(item, FieldInfo) for limit in item.metadata]
        described = next((item.description for item in arguments[1:] if getattr(item, "description", None)), None)
        return described if described and arguments[0] is str else _value(arguments[0]) + _limits(limits)
    if origin in (Union, UnionType):
        return " or ".join(_value(argument) for argument in arguments if argument is not NoneType)
    if origin is dict:
        return f"mapping of {_value(arguments[0])} to {_value(arguments[1])}"
    if origin in (tuple, frozenset):
        return f"list of {_value(arguments[0])}"
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    metadata = field.metadata if field else []
    patterns = [item.pattern for item in metadata if getattr(item, "pattern", None)]
    return _PATTERNS.get(patterns[0], "text") if patterns else _plain(kind) + _limits(metadata)


def _plain(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{item.value}`" for item in kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _title(kind)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", IPv4Network: "IPv4 network"}
    return names[kind]


def _title(model: type[BaseModel]) -> str:
    title = next(title for title, known in PARTS if known is model)
    anchor = "".join(char for char in title.lower().replace(" ", "-") if char.isalnum() or char in "-_")
    return f"[{model.__name__}](#{anchor})"


def _limits(metadata: list[Any]) -> str:
    words = {"ge": "from", "gt": "more than", "le": "to", "lt": "less than"}
    limits = [f"{words[key]} {getattr(item, key)}" for key in words for item in metadata if hasattr(item, key)]
    return f" {' '.join(limits)}" if limits else ""


def schema_text() -> str:
    """The JSON Schema as it is published."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    (directory / PAGE).write_text(reference_page(), encoding="utf-8")
    (directory / SCHEMA).write_text(schema_text(), encoding="utf-8")
