# SPDX-License-Identifier: GPL-2.0-or-later
"""A symbol file for volatility3 (its Intermediate Symbol Format, version 6.2) from a kernel's BTF and kallsyms.

The usual tools make it from DWARF, which only a debug package has. BTF has the same structs, but no types of global
variables; `GLOBALS` names those that the plugins of the comparison (`volatility.py`) ask for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vinci.introspect.btf import Btf, Kind, Member
from vinci.introspect.profile import Profile

Json = dict[str, Any]
GLOBALS = {
    "init_task": "task_struct",
    "init_mm": "mm_struct",
    "init_files": "files_struct",
    "init_net": "net",
    "init_pid_ns": "pid_namespace",
    "modules": "list_head",
    "net_namespace_list": "list_head",
    "super_blocks": "list_head",
    "tty_drivers": "list_head",
    "keyboard_notifier_list": "atomic_notifier_head",
    "mod_tree": "mod_tree_root",
    "prog_idr": "idr",
    "tcp4_seq_afinfo": "tcp_seq_afinfo",
    "udp4_seq_afinfo": "udp_seq_afinfo",
    "tcp6_seq_afinfo": "tcp_seq_afinfo",
    "udp6_seq_afinfo": "udp_seq_afinfo",
}
POINTERS = {"module_kset": "kset"}
"""Variables that point to a struct."""
ARRAYS = {"taint_flags": ("taint_flag", 19)}
PRODUCER = {"name": "dwarf2json", "version": "0.8.0"}
"""Not the truth: `hidden_modules` refuses what is not said to be made by that program, from that version on."""
_TAGGED = {Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum", Kind.FWD: "struct"}
_VOID: Json = {"kind": "base", "name": "void"}


def write_isf(profile: Profile, path: Path) -> None:
    """Write the file; about 15 MB."""
    btf = profile.layout.btf
    base: Json = {
        "pointer": {"size": 8, "signed": False, "kind": "int", "endian": "little"},
        "void": {"size": 0, "signed": False, "kind": "void", "endian": "little"},
    }
    user: Json = {}
    enums: Json = {}
    for number in range(1, len(btf) + 1):
        record = btf.type(number)
        if record.kind in (Kind.STRUCT, Kind.UNION):
            fields = {
                member.name or f"unnamed_field_{member.bits}": _field(btf, member) for member in btf.members(record)
            }
            user.setdefault(
                _name(btf, number),
                {"size": record.size, "fields": fields, "kind": "struct" if record.kind is Kind.STRUCT else "union"},
            )
        elif record.kind in (Kind.ENUM, Kind.ENUM64):
            enums.setdefault(
                _name(btf, number),
                {"size": record.size, "base": _ENUM_BASES[record.size], "constants": dict(btf.enumerators(record))},
            )
        elif record.kind in (Kind.INT, Kind.FLOAT):
            base.setdefault(record.name, _base(record.name, record.size))
    for name, size in {"unsigned char": 1, "unsigned int": 4, "unsigned long long": 8}.items():
        base.setdefault(name, _base(name, size))
    document = {
        "metadata": {"format": "6.2.0", "producer": PRODUCER},
        "base_types": base,
        "user_types": user,
        "enums": enums,
        "symbols": {name: {"address": profile.symbols.all(name)[0], **_global(name)} for name in profile.symbols.names},
    }
    path.write_text(json.dumps(document))


_ENUM_BASES = {1: "unsigned char", 4: "unsigned int", 8: "unsigned long long"}


def _base(name: str, size: int) -> Json:
    kind = {"char": "char", "_Bool": "bool", "double": "float"}.get(name, "int")
    signed = "unsigned" not in name and name != "_Bool"
    return {"size": size, "signed": signed, "kind": kind, "endian": "little"}


def _global(name: str) -> Json:
    if name in ARRAYS:
        kind, count = ARRAYS[name]
        return {"type": {"kind": "array", "count": count, "subtype": {"kind": "struct", "name": kind}}}
    if name in POINTERS:
        return {"type": {"kind": "pointer", "subtype": {"kind": "struct", "name": POINTERS[name]}}}
    return {"type": {"kind": "struct", "name": GLOBALS[name]} if name in GLOBALS else _VOID}


def _name(btf: Btf, number: int) -> str:
    return btf.type(number).name or f"unnamed_{number}"


def _field(btf: Btf, member: Member) -> Json:
    kind = _type(btf, member.type)
    offset = member.bits // 8
    if member.bit_size:
        size = btf.size(member.type)
        offset = member.bits // (8 * size) * size
        position = member.bits - 8 * offset
        kind = {"kind": "bitfield", "bit_position": position, "bit_length": member.bit_size, "type": kind}
    return {"type": kind, "offset": offset, **({} if member.name else {"anonymous": True})}


def _type(btf: Btf, number: int) -> Json:
    record = btf.strip(number)
    if record.kind is Kind.PTR:
        return {"kind": "pointer", "subtype": _type(btf, record.target)}
    if record.kind is Kind.ARRAY:
        element, count = btf.array(record)
        return {"kind": "array", "count": count, "subtype": _type(btf, element)}
    if record.kind in _TAGGED:
        return {"kind": _TAGGED[record.kind], "name": _name(btf, record.id)}
    if record.kind in (Kind.INT, Kind.FLOAT):
        return {"kind": "base", "name": record.name}
    return {"kind": "function"} if record.kind is Kind.FUNC_PROTO else _VOID
