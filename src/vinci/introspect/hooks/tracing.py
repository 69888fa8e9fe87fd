# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracing as a way in: ftrace, kprobes, uprobes, tracepoints, live patches.

A clean guest has none of them, but for the live patch of an FS-VM, which is a certified module's.
"""

from __future__ import annotations

import struct

import numpy as np

from vinci.introspect.code import Code
from vinci.introspect.findings import Check
from vinci.introspect.guest import Guest
from vinci.introspect.hooks.trusted import HookTables
from vinci.introspect.lists import Broken, chain, list_entries
from vinci.introspect.sampling import Sample
from vinci.introspect.structs import struct_reader

_LIMIT = 4096
_PROBE_HEADS = 64
_MAX_PROBES = 64


def look(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """Look for all of them. Raises Unreadable, Broken."""
    _live_patches(guest, code, sample)
    _ftrace(guest, code, sample)
    _kprobes(guest, code, sample)
    _tracepoints(guest, code, trusted, sample)
    sample.examined += 1
    if guest.u64(guest.symbol("uprobes_tree")):
        sample.add("uprobes", Check.HOOKS, "a probe in a user program", "uprobes_tree")


def _live_patches(guest: Guest, code: Code, sample: Sample) -> None:
    at = guest.layout.offset("klp_patch", "list")
    for entry in list_entries(guest, guest.symbol("klp_patches"), _LIMIT):
        sample.examined += 1
        if not code.is_data(entry - at):
            what = "a live patch that is no certified module's"
            sample.add("patch", Check.HOOKS, what, code.describe(entry - at))


def _ftrace(guest: Guest, code: Code, sample: Sample) -> None:
    """Every user of ftrace is a patched function of a certified live patch."""
    end = guest.symbol("ftrace_list_end")
    patched = _patched_functions(guest)
    handler = guest.symbol("klp_ftrace_handler")
    next_at = guest.layout.offset("ftrace_ops", "next")
    reader = struct_reader(guest.layout, "ftrace_ops", "func", "next")
    first = guest.u64(guest.symbol("ftrace_ops_list"))
    at, count = first, 0
    while at and at != end:
        function, _ = reader.words(guest, at)
        sample.examined += 1
        if function != handler or at not in patched:
            what = f"functions are traced by {code.describe(function)}"
            sample.add("ftrace", Check.HOOKS, what, code.describe(at))
        at, count = guest.u64(at + next_at), count + 1
        if count > _LIMIT:
            raise Broken("the list of ftrace's users does not end")
    for replacement in patched.values():
        if not code.is_function(replacement):
            what = f"a function is patched by {code.describe(replacement)}, which is no certified function"
            sample.add("patched", Check.HOOKS, what, "klp_ops")


def _patched_functions(guest: Guest) -> dict[int, int]:
    """The `ftrace_ops` of each patched function, and the function that replaces it (kernel/livepatch/patch.c)."""
    layout = guest.layout
    stack, operations = layout.offset("klp_ops", "func_stack"), layout.offset("klp_ops", "fops")
    node, replacement = layout.offset("klp_func", "stack_node"), layout.offset("klp_func", "new_func")
    found = {}
    for entry in list_entries(guest, guest.symbol("klp_ops"), _LIMIT):
        newest = guest.u64(entry + stack) - node
        found[entry + operations] = guest.u64(newest + replacement)
    return found


def _kprobes(guest: Guest, code: Code, sample: Sample) -> None:
    heads = struct.unpack(f"<{_PROBE_HEADS}Q", guest.read(guest.symbol("kprobe_table"), 8 * _PROBE_HEADS))
    reader = struct_reader(guest.layout, "kprobe", "addr", "pre_handler")
    for first in heads:
        for probe in chain(guest, first, 0, _LIMIT):
            address, handler = reader.words(guest, probe)
            what = f"a kprobe that calls {code.describe(handler)}"
            sample.add("kprobe", Check.HOOKS, what, code.describe(address))
    sample.examined += _PROBE_HEADS


def _tracepoints(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """The functions that tracepoints call: certified ones only."""
    sites = trusted.tracepoints
    start = guest.profile.symbols["_sdata"] & -8
    words = guest.image(start, guest.profile.symbols["_edata"] - start & -8).view(np.uint64)
    at = (sites + np.uint64(guest.layout.offset("tracepoint", "funcs") - start & 0xFFFF_FFFF_FFFF_FFFF)).astype(
        np.int64
    )
    functions = words[at >> 3]
    sample.examined += len(sites)
    size = guest.layout.size("tracepoint_func")
    for row in np.flatnonzero(functions).tolist():
        for number in range(_MAX_PROBES):
            function = guest.u64(int(functions[row]) + number * size)
            if not function:
                break
            if not code.is_function(function):
                name = guest.profile.symbols.describe(int(sites[row])).removesuffix("+0x0")
                what = f"a tracepoint calls {code.describe(function)}, which is no certified function"
                sample.add(("tracepoint", row), Check.HOOKS, what, name)
