# SPDX-License-Identifier: GPL-2.0-or-later
"""Certified code: where a function pointer of the kernel may point."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vinci.introspect.guest import Guest
from vinci.introspect.loaded import listed, read_module
from vinci.introspect.memory import Implausible, Words


@dataclass(frozen=True, slots=True)
class ModuleSpan:
    """A certified module as it is loaded: its name, and the virtual addresses of its text and of its data.

    `functions` are the offsets from the start of its text at which its functions begin, ascending.
    """

    name: str
    text: tuple[int, int]
    data: tuple[int, int]
    functions: tuple[int, ...]


def certified_modules(guest: Guest) -> list[ModuleSpan]:
    """The loaded modules that are certified by their name and sizes; that they are by every byte too is another check.

    What points into any other module points outside certified code. Raises Unreadable, Implausible.
    """
    spans = []
    for address in listed(guest):
        try:
            module = read_module(guest, address)
        except Implausible:
            continue  # one that is just being loaded
        file = guest.profile.module(module.name)
        if file is None or (module.text, module.read_only) != (file.core.text, file.core.read_only):
            continue
        text = (module.base, module.base + file.core.text)
        spans.append(ModuleSpan(module.name, text, (text[1], module.base + file.core.size), file.functions))
    return spans


class Code:
    """The text of the kernel and of its certified modules, in one guest."""

    def __init__(self, guest: Guest, modules: Iterable[ModuleSpan] | None = None) -> None:
        """`modules`: those that are certified; None to read which they are. Raises Unreadable, Implausible."""
        self.guest = guest
        self.modules = tuple(certified_modules(guest) if modules is None else modules)
        read_only = (guest.symbol("__start_rodata"), guest.symbol("__end_rodata"))
        data = (guest.symbol("_sdata"), guest.symbol("_edata"))
        self._data = (read_only, data, *(module.data for module in self.modules))

    @cached_property
    def _starts(self) -> Words:
        """The link addresses at which the kernel's functions begin."""
        symbols = self.guest.profile.symbols
        first, last = np.searchsorted(symbols.addresses, np.array([symbols["_stext"], symbols["_etext"]], np.uint64))
        return np.asarray(symbols.addresses[first:last])  # not a memmap, which is slow to index

    @cached_property
    def _in_modules(self) -> Words:
        starts = [np.array(module.functions, np.uint64) + np.uint64(module.text[0]) for module in self.modules]
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *starts]))

    def are_functions(self, addresses: Words) -> npt.NDArray[np.bool_]:
        """Whether each address is one at which a certified function begins."""
        in_kernel = _are_among(addresses - np.uint64(self.guest.slide), self._starts)
        return in_kernel | _are_among(addresses, self._in_modules)

    def is_function(self, address: int) -> bool:
        """Whether a certified function begins at the address."""
        return bool(self.are_functions(np.array([address], np.uint64))[0])

    def are_data(self, addresses: Words) -> npt.NDArray[np.bool_]:
        """Whether each address lies in the data of the kernel's image or of a certified module."""
        starts, ends = self._spans
        at = np.searchsorted(starts, addresses, "right") - 1
        inside: npt.NDArray[np.bool_] = (at >= 0) & (addresses < ends[at])
        return inside

    @cached_property
    def _spans(self) -> tuple[Words, Words]:
        """Starts and ends of all data, ascending."""
        spans = np.array(sorted(self._data), np.uint64)
        return spans[:, 0], spans[:, 1]

    def is_data(self, address: int) -> bool:
        """Whether the address lies in the data of the kernel's image or of a certified module."""
        return any(start <= address < end for start, end in self._data)

    def describe(self, address: int) -> str:
        """The address by symbol, or by module and offset, or as a number."""
        for module in self.modules:
            for start, end in (module.text, module.data):
                if start <= address < end:
                    return f"{module.name}+{address - start:#x}"
        return self.guest.describe(address)


def _are_among(addresses: Words, known: Words) -> npt.NDArray[np.bool_]:
    """Whether each address is one of those known, which ascend."""
    if not len(known):
        return np.zeros(len(addresses), np.bool_)
    at = np.minimum(np.searchsorted(known, addresses), len(known) - 1)
    same: npt.NDArray[np.bool_] = known[at] == addresses
    return same
