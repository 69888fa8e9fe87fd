# SPDX-License-Identifier: GPL-2.0-or-later
"""What the trusted image says of the kernel's hooks, worked out once for each image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from vinci.introspect.memory import Words
from vinci.introspect.profile import Profile

_CHOSEN_AT_BOOT = frozenset(
    {
        # by the interrupt controllers and the bus that the machine has
        "__acpi_register_gsi",
        "__acpi_unregister_gsi",
        "acpi_unregister_gsi",
        "i8259A_chip",
        "legacy_pic",
        "pcibios_disable_irq",
        "pcibios_enable_irq",
        # by the processor and its clocks
        "delay_fn",
        "x86_platform",
        # by the live patch of an FS-VM; who uses ftrace is looked at by itself
        "ftrace_graph_entry",
        "ftrace_trace_function",
        # by the hypervisor
        "machine_ops",
        "smp_ops",
        "pv_ops",
    }
)
"""Variables in which the kernel puts another function of its own when it starts."""
_STATIC_CALL_KEY = "__SCK__"
"""What a static call's key says is only the kernel's note: what is called stands in the text, and is checked there."""


@dataclass(frozen=True)
class Pointers:
    """Pointers in a part of the image that begins at link address `start`.

    They lie at the link addresses `sites` and point to the link addresses `targets`; those in `free` may point to
    another function.
    """

    start: int
    sites: Words
    targets: Words
    free: npt.NDArray[np.bool_]

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """The number of each pointer's word from `start`."""
        return ((self.sites - np.uint64(self.start)) >> np.uint64(3)).astype(np.int64)


@dataclass(frozen=True)
class ModulePointers:
    """Pointers to functions in a module's writable data.

    `sites` are offsets from the module's base. Of each target `own` says whether it is such an offset as well, into the
    module's text, or the link address of a function of the kernel.
    """

    sites: npt.NDArray[np.int64]
    targets: Words
    own: npt.NDArray[np.bool_]

    @cached_property
    def span(self) -> tuple[int, int]:
        """The offset of the first site, and that behind the last."""
        return int(self.sites.min()), int(self.sites.max()) + 8

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """The number of each pointer's word from the first site on."""
        return (self.sites - self.span[0]) >> 3

    def expected(self, base: int, slide: int) -> Words:
        """What has to stand at the sites of a module that is loaded at `base`."""
        return self.targets + np.where(self.own, np.uint64(base), np.uint64(slide))


class HookTables:
    """Pointers to functions and to constants, and tracepoints, of one kernel image."""

    def __init__(self, profile: Profile) -> None:
        symbols = profile.symbols
        self.functions: list[Pointers] = []
        self.constants: list[Pointers] = []
        for first, last in (("_sdata", "_edata"), ("__start_ro_after_init", "__end_ro_after_init")):
            functions, constants = _pointers(profile, -(-symbols[first] // 8) * 8, symbols[last])
            self.functions.append(functions)
            self.constants.append(constants)
        self.tracepoints = _tracepoints(profile)
        self._profile = profile
        self._modules: dict[str, ModulePointers] = {}

    def module(self, name: str) -> ModulePointers:
        """The pointers of a certified module, worked out when it is first asked for."""
        if name not in self._modules:
            self._modules[name] = _module_pointers(self._profile, name)
        return self._modules[name]


def _pointers(profile: Profile, start: int, end: int) -> tuple[Pointers, Pointers]:
    """The pointers to functions and to constants between two link addresses."""
    content = np.frombuffer(profile.elf.at(start, (end - start) // 8 * 8), np.uint64)
    sites = np.asarray(profile.relocations64)
    sites = sites[(sites >= np.uint64(start)) & (sites < np.uint64(end - 7)) & (sites % np.uint64(8) == 0)]
    targets = content[((sites - np.uint64(start)) >> np.uint64(3)).astype(np.int64)]

    def pointing(first: str, last: str) -> Pointers:
        symbols = profile.symbols
        mine = (targets >= np.uint64(symbols[first])) & (targets < np.uint64(symbols[last]))
        free = [_is_free(symbols.describe(site).partition("+")[0]) for site in sites[mine].tolist()]
        return Pointers(start, sites[mine], targets[mine], np.array(free, np.bool_))

    return pointing("_stext", "_etext"), pointing("__start_rodata", "__end_rodata")


@lru_cache(maxsize=1 << 15)
def _is_free(variable: str) -> bool:
    return variable in _CHOSEN_AT_BOOT or variable.startswith(_STATIC_CALL_KEY)


def _module_pointers(profile: Profile, name: str) -> ModulePointers:
    """Those that lead into the module's own text or into the kernel's; pointers to other modules are left out."""
    file = profile.module(name)
    if file is None:
        raise KeyError(f"{name} is no certified module")
    first, last = profile.symbols["_stext"], profile.symbols["_etext"]
    rows: list[tuple[int, int, bool]] = []
    for at, symbol, addend in file.data_pointers():
        if at % 8:
            continue
        if symbol.section in file.core.offsets:
            target = file.core.offsets[symbol.section] + symbol.value + addend
            if target < file.core.text:
                rows.append((at, target, True))
        elif symbol.name in profile.exports:
            target = profile.exports[symbol.name] + addend
            if first <= target < last:
                rows.append((at, target, False))
    sites, targets, own = zip(*rows, strict=True) if rows else ((), (), ())
    return ModulePointers(np.array(sites, np.int64), np.array(targets, np.uint64), np.array(own, np.bool_))


def _tracepoints(profile: Profile) -> Words:
    """The link addresses of all tracepoints; not of the keys and names that share their prefix."""
    symbols = profile.symbols
    named = {name for name in symbols.names if name.startswith("__tracepoint_")}
    sites = sorted(symbols[name] for name in named if len(symbols.all(name)) == 1)
    return np.array([site for site in sites if symbols["_sdata"] <= site < symbols["_edata"]], np.uint64)
