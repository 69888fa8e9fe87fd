# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters of modules: those that are not as their module's file has them are shown."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from vinci.introspect.btf import Layout
from vinci.introspect.guest import Guest
from vinci.introspect.loaded import LoadedModule
from vinci.introspect.memory import Unreadable
from vinci.introspect.profile.module_file import ModuleFile

_CODES = {
    "byte": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "long": "q", "ulong": "Q", "ullong": "Q",
    "hexint": "I", "bool": "?", "invbool": "?", "bint": "i", "bool_enable_only": "?",
}  # fmt: skip
"""Kinds of parameters (param_ops_<kind>, kernel/params.c) that are one number."""
_OPERATIONS = "param_ops_"
_SET_BY_ITSELF = {("nf_conntrack", "expect_hashsize")}
"""Module and parameter: set by the module when it is loaded, from the size of memory."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number: its name, struct code, offset in the core part, and value in the file."""

    name: str
    code: str
    offset: int
    built: int


def changed(guest: Guest, module: LoadedModule, file: ModuleFile) -> Iterator[str]:
    """Parameters that differ from the file, for people: `name is 3 (built 1)`."""
    for parameter in _parameters(file, guest.layout):
        try:
            raw = guest.read(module.base + parameter.offset, struct.calcsize(parameter.code))
        except Unreadable:
            continue
        (value,) = struct.unpack(f"<{parameter.code}", raw)
        if int(value) != parameter.built and (module.name, parameter.name) not in _SET_BY_ITSELF:
            yield f"{parameter.name} is {int(value)} (built {parameter.built})"


@lru_cache(maxsize=256)
def _parameters(file: ModuleFile, layout: Layout) -> tuple[Parameter, ...]:
    """The parameters of a module (struct kernel_param) that are numbers."""
    section = file.elf.by_name.get("__param")
    if section is None:
        return ()
    base, outside = 1 << 32, 1 << 40
    kinds = sorted({s.name for s in file.elf.symbols if s.name.startswith(_OPERATIONS)})
    core, _ = file.relocated(base, 0, 0, lambda name: outside + kinds.index(name) if name in kinds else 0)
    size, start = layout.size("kernel_param"), base + file.core.offsets[section.index]
    found = []
    for at in range(start, start + section.size, size):
        name, operations, value = (
            int.from_bytes(core.at(at + layout.offset("kernel_param", field), 8), "little")
            for field in ("name", "ops", "arg")
        )
        kind = kinds[operations - outside] if 0 <= operations - outside < len(kinds) else ""
        code = _CODES.get(kind.removeprefix(_OPERATIONS))
        if code and base <= value < base + file.core.size:
            (built,) = struct.unpack(f"<{code}", core.at(value, struct.calcsize(code)))
            text = core.at(name, 64).partition(b"\0")[0].decode(errors="replace")
            found.append(Parameter(text, code, value - base, int(built)))
    return tuple(found)
