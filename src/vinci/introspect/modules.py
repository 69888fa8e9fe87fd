# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's modules: each certified, none hidden, and the text of each explained byte by byte."""

from __future__ import annotations

import numpy as np
from blake3 import blake3

from vinci.introspect.findings import Check, CheckResult, Severity
from vinci.introspect.guest import Guest
from vinci.introspect.kernel_text import unpatched
from vinci.introspect.linking import Derived, Linker
from vinci.introspect.livepatch import Livepatch
from vinci.introspect.loaded import LoadedModule, in_tree, listed, module_area, plausible, scanned
from vinci.introspect.memory import Bytes, Unreadable
from vinci.introspect.parameters import changed
from vinci.introspect.profile.module_file import ModuleFile
from vinci.introspect.sampling import Sample, check_by_samples
from vinci.introspect.sites import unexplained

_TAINTS = {
    0: "proprietary", 1: "forced to load", 3: "forced to unload", 10: "staging", 12: "out of tree", 13: "unsigned",
    15: "livepatch", 18: "test",
}  # fmt: skip
_OWN_TAINTS = 1 << 12 | 1 << 13 | 1 << 15
"""The bits that the kernel sets for a livepatch that is built apart from it and not signed (linux/panic.h)."""
_FORMED = ("live", "coming", "going")


def check_modules(guest: Guest) -> CheckResult:
    """Cross-views of the modules, and the text and constants of each."""
    return check_by_samples(Check.MODULES, guest, lambda: _sample(guest))


def _sample(guest: Guest) -> Sample:
    sample = Sample()
    area = module_area(guest)
    guest.learn(area)
    on_list = set(listed(guest))
    trees = in_tree(guest)
    by_scan = scanned(guest, area)
    modules = [m for m in plausible(guest, on_list | trees[0] | trees[1] | by_scan) if m.state in _FORMED]
    sample.examined = len(modules)
    unlisted = on_list - {module.address for module in modules}
    for address in unlisted:
        if not _forming(guest, address):
            sample.add(("broken", address), Check.MODULES, "the list of modules leads to no module", f"{address:#x}")
    linker = Linker(guest, modules)
    for module in modules:
        _cross_views(module, on_list, trees, sample)
        _content(guest, linker, module, sample)
    return sample


def _forming(guest: Guest, address: int) -> bool:
    """Whether a module on the list is not laid out yet."""
    try:
        state = guest.u32(address + guest.layout.offset("module", "state"))
    except Unreadable:
        return False
    return state == guest.layout.enumerator("module_state", "MODULE_STATE_UNFORMED")


def _cross_views(module: LoadedModule, on_list: set[int], trees: list[set[int]], sample: Sample) -> None:
    where = f"module {module.name}"
    if module.address not in on_list:
        sample.add((module.address, "list"), Check.MODULES, "hidden: it is not on the list of modules", where)
    if not any(module.address in tree for tree in trees):
        sample.add((module.address, "tree"), Check.MODULES, "hidden: it is not in the tree of modules", where)


def _content(guest: Guest, linker: Linker, module: LoadedModule, sample: Sample) -> None:
    """Certified by name, laid out as its file, every byte of text and constants explained, tainted as expected."""
    where = f"module {module.name}"
    file = guest.profile.module(module.name)
    if file is None:
        what = f"not certified: no file of the images ({_taints(module.taints) or 'no taint'})"
        sample.add((module.address, "unknown"), Check.MODULES, what, where)
        return
    if (module.text, module.read_only) != (file.core.text, file.core.read_only):
        sample.add(
            (module.address, "size"), Check.MODULES, "not the certified module: its parts have other sizes", where
        )
        return
    if odd := _taints(module.taints & ~(_OWN_TAINTS if file.own else 0)):
        sample.add((module.address, "taint"), Check.MODULES, f"tainted: {odd}", where)
    for shown in changed(guest, module, file):
        sample.add((module.address, shown), Check.MODULES, f"parameter {shown}", where, Severity.NOTE)
    key = f"{module.name} {module.address:x} {module.base:x} {module.init:x} {module.per_cpu:x}"
    copies = _copies(guest, module, file)
    hashed = blake3()
    for copy in copies.values():
        hashed.update(copy)
    digest = hashed.digest()
    if guest.verified.get(key) == digest:
        return
    try:
        parts = linker.derive(module, file)
    except (KeyError, ValueError) as problem:
        what = f"it cannot have been linked as it is: {problem.args[0]} is missing"
        sample.add((module.address, "link"), Check.MODULES, what, where)
        return
    clean = [_explained(guest, module, part, copies[part.code.base], sample) for part in parts]
    if all(clean):
        guest.verified[key] = digest


def _copies(guest: Guest, module: LoadedModule, file: ModuleFile) -> dict[int, bytes]:
    """Its text and constants by their addresses: what is hashed and what is explained are the same bytes."""
    copies = {module.base: guest.read(module.base, module.read_only)}
    if module.initialising:
        copies[module.init] = guest.read(module.init, file.init.size)
    return copies


def _explained(guest: Guest, module: LoadedModule, part: Derived, copy: bytes, sample: Sample) -> bool:
    seen = np.frombuffer(copy, np.uint8)[: part.text]
    offsets = unexplained(seen, part.code.content[: part.text], part.allowed)
    offsets = unpatched(Livepatch(guest), part.code.base, seen, offsets) if len(offsets) else offsets
    for offset in offsets[np.append(True, np.diff(offsets) > 8)].tolist() if len(offsets) else ():
        _unexplained(guest, module, part.code.base, offset, seen[offset : offset + 8], sample)
    for start, expected in part.constants:
        content = np.frombuffer(copy, np.uint8)[start : start + len(expected)]
        different = np.flatnonzero(content != np.frombuffer(expected, np.uint8))
        for at in different[:1].tolist():
            _unexplained(guest, module, part.code.base, start + at, content[at : at + 8], sample)
            return False
    return not len(offsets)


def _unexplained(guest: Guest, module: LoadedModule, base: int, offset: int, there: Bytes, sample: Sample) -> None:
    what = f"bytes that nothing explains: {there.tobytes().hex()}"
    file = guest.profile.module(module.name)
    name = file.describe(offset) if file and base == module.base else f"initialisation+{offset:#x}"
    sample.add((module.address, base, offset), Check.MODULES, what, f"module {module.name}: {name}")


def _taints(bits: int) -> str:
    return ", ".join(_TAINTS.get(bit, f"bit {bit}") for bit in range(bits.bit_length()) if bits >> bit & 1)
