# SPDX-License-Identifier: GPL-2.0-or-later
"""What a certified module's text has to be in a guest: its file, linked where the guest loaded it, and patched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from vinci.introspect.guest import Guest
from vinci.introspect.loaded import LoadedModule
from vinci.introspect.profile.module_file import ModuleFile
from vinci.introspect.sites import Allowed, Builder, Code, Rules, Tables

_READ_ONLY = re.compile(r"\.rodata.*|__ksymtab.*|__kcrctab.*|__param")
"""Read-only sections that nothing sorts or cuts after they were relocated."""


@dataclass(frozen=True, slots=True)
class Derived:
    """What one part of a module has to hold: its text's bytes and what patching may have made of them, and read-only
    pieces as offset and bytes."""

    code: Code
    text: int
    allowed: list[Allowed]
    constants: list[tuple[int, bytes]]


class Linker:
    """Links certified modules as one guest has loaded them."""

    def __init__(self, guest: Guest, modules: Iterable[LoadedModule]) -> None:
        self.guest = guest
        self._cores: dict[int, Code] = {}
        self._files: list[tuple[LoadedModule, ModuleFile]] = []
        for module in modules:
            file = guest.profile.module(module.name)
            if file:
                self._files.append((module, file))

    @cached_property
    def _exports(self) -> dict[str, int]:
        """What these modules export, worked out when one has to be linked."""
        found: dict[str, int] = {}
        for module, file in self._files:
            sections = file.addresses(module.base, module.init, module.per_cpu)
            for name, symbol in file.exports.items():
                found.setdefault(name, sections.get(symbol.section, 0) + symbol.value)
        return found

    def resolve(self, name: str) -> int:
        """The address of what a module imports. Raises KeyError."""
        profile = self.guest.profile
        return self.guest.slid(profile.exports[name]) if name in profile.exports else self._exports[name]

    def derive(self, module: LoadedModule, file: ModuleFile) -> list[Derived]:
        """The module's core, and while it is being loaded its initialisation.

        Raises KeyError when it imports what no certified module that is loaded exports.
        """
        core, init = file.relocated(module.base, module.init, module.per_cpu, self.resolve)
        addresses = file.addresses(module.base, module.init, module.per_cpu)

        def section(name: str) -> tuple[int, bytes]:
            found = file.elf.by_name.get(name)
            if found is None or found.index not in addresses:
                return 0, b""
            part = core if found.index in file.core.offsets else init
            return addresses[found.index], part.at(addresses[found.index], found.size)

        tables = Tables.read(section)
        derived = []
        for code, layout in ((core, file.core), (init, file.init))[: 2 if module.initialising else 1]:
            builder = Builder(code, code.base, code.base + layout.text, self._rules(core))
            for trampoline, key in _trampolines(file, addresses):
                builder.trampoline(trampoline, key)
            constants = [
                (offset, code.at(code.base + offset, file.elf.sections[index].size))
                for index, offset in layout.offsets.items()
                if _READ_ONLY.fullmatch(file.elf.sections[index].name)
            ]
            derived.append(Derived(code, layout.text, builder.build(tables), constants))
        return derived

    def _functions_elsewhere(self, key: int) -> list[int]:
        """What a static call leads to whose key is another module's, as that of an exported tracepoint is."""
        for module, file in self._files:
            if module.base <= key < module.base + file.core.size:
                if module.address not in self._cores:
                    self._cores[module.address], _ = file.relocated(
                        module.base, module.init, module.per_cpu, self.resolve
                    )
                return [int.from_bytes(self._cores[module.address].at(key, 8), "little")]
        return []

    def _rules(self, core: Code) -> Rules:
        """The kernel's rules at this guest's addresses, with the module's own static calls."""
        guest, kernel = self.guest, self.guest.profile.rules

        def moved(links: Iterable[int]) -> list[int]:
            return [guest.slid(link) if link else 0 for link in links]

        def functions_of(key: int) -> list[int]:
            if core.base <= key < core.base + len(core.content):
                return [int.from_bytes(core.at(key, 8), "little")]
            return moved(kernel.functions_of(key - guest.slide)) or self._functions_elsewhere(key)

        rules = kernel.rules
        return Rules(
            functions_of=functions_of,
            operations=lambda number: moved(kernel.operations(number)),
            thunks={guest.slid(link): register for link, register in rules.thunks.items()},
            return_thunks=tuple(moved(rules.return_thunks)),
            return_zero=guest.slid(rules.return_zero),
        )


def _trampolines(file: ModuleFile, addresses: dict[int, int]) -> Iterable[tuple[int, int]]:
    """The module's own static call trampolines and their keys."""
    own = {s.name: addresses[s.section] + s.value for s in file.elf.symbols if s.section in addresses}
    for name, address in own.items():
        key = own.get(name.replace("__SCT__", "__SCK__", 1))
        if name.startswith("__SCT__") and key is not None:
            yield address, key
