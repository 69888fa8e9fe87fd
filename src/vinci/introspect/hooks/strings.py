# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that the kernel starts by itself, as root: the paths are those that it was built with."""

from __future__ import annotations

from vinci.introspect.code import Code
from vinci.introspect.findings import Check
from vinci.introspect.guest import Guest, printable
from vinci.introspect.hooks.trusted import HookTables
from vinci.introspect.sampling import Sample

_PATHS = {
    "core_pattern": "where core dumps go",
    "modprobe_path": "the program that loads modules",
    "poweroff_cmd": "the program that ends the machine",
    "reboot_cmd": "the program that restarts the machine",
    "uevent_helper": "the program that is told of devices",
}
_LONGEST = 128


def look(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """Compare each path with the image's. Raises Unreadable."""
    del code, trusted
    symbols, elf = guest.profile.symbols, guest.profile.elf
    for name, meaning in _PATHS.items():
        if name not in symbols:
            continue
        sample.examined += 1
        expected = bytes(elf.at(symbols[name], _LONGEST)).partition(b"\0")[0]
        found = guest.read(guest.symbol(name), _LONGEST).partition(b"\0")[0]
        if found != expected:
            what = f"{meaning} was changed from '{printable(expected)}' to '{printable(found)}'"
            sample.add(("path", name), Check.HOOKS, what, name)
