# SPDX-License-Identifier: GPL-2.0-or-later
"""Certified code: where a function pointer of the kernel may point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from vinci.introspect.guest import Guest
from vinci.introspect.loaded import listed, read_module
from vinci.introspect.memory import Implausible, Words
from vinci.introspect.profile.module_file import ModuleFile


@dataclass(frozen=True, slots=True)
class ModuleSpan:
    """A certified module as it is loaded: its name, and the virtual addresses of its text and of its data.

    `functions` are the offsets from the start of its text at which its functions begin, ascending. Its read-only data
    ends at `constants_end`; 0 when it has none that is known.
    """

    name: str
    text: tuple[int, int]
    data: tuple[int, int]
    functions: Sequence[int] | Words
    constants_end: int = 0


def loaded_modules(guest: Guest) -> tuple[list[ModuleSpan], list[ModuleSpan]]:
    """The loaded modules that are certified by their name and sizes, and the others.

    That they are by every byte too is another check's. Raises Unreadable, Implausible.
    """
    certified, others = [], []
    for address in listed(guest):
        try:
            module = read_module(guest, address)
        except Implausible:
            continue  # one that is just being loaded
        file = guest.profile.module(module.name)
        end = module.base + module.text
        if file is None or (module.text, module.read_only) != (file.core.text, file.core.read_only):
            others.append(ModuleSpan(module.name, (module.base, end), (end, module.base + module.size), ()))
        else:
            data = (end, module.base + file.core.size)
            constants = module.base + file.core.read_only
            certified.append(ModuleSpan(module.name, (module.base, end), data, _functions(file), constants))
    return certified, others


@lru_cache(maxsize=1024)
def _functions(file: ModuleFile) -> Words:
    return np.array(file.functions, np.uint64)


class Code:
    """The text of the kernel and of its certified modules, in one guest."""

    def __init__(self, guest: Guest, modules: Iterable[ModuleSpan] | None = None) -> None:
        """`modules`: those that are certified; None to read which they are. Raises Unreadable, Implausible."""
        self.guest = guest
        certified, others = loaded_modules(guest) if modules is None else (modules, ())
        self.modules = tuple(certified)
        self._others = tuple(others)
        read_only = (guest.symbol("__start_rodata"), guest.symbol("__end_rodata"))
        data = (guest.symbol("_sdata"), guest.symbol("_edata"))
        self._data = (read_only, data, *(module.data for module in self.modules))
        own = ((module.data[0], module.constants_end) for module in self.modules)
        self._constants = (read_only, *(span for span in own if span[0] < span[1]))

    @classmethod
    def of(cls, guest: Guest) -> Code:
        """All of it as the guest has it loaded, read once in a look. Raises Unreadable, Implausible."""
        return guest.shared("code", lambda: cls(guest))

    @property
    def spans(self) -> tuple[tuple[object, ...], ...]:
        """All that answers depend on besides the kernel's image: where which modules are loaded."""
        known = ((module.name, module.text, module.data, module.constants_end) for module in self.modules)
        return (*known, *((module.name, module.text, module.data) for module in self._others))

    @cached_property
    def _starts(self) -> Words:
        """The link addresses at which the kernel's functions begin."""
        symbols = self.guest.profile.symbols
        first, last = np.searchsorted(symbols.addresses, np.array([symbols["_stext"], symbols["_etext"]], np.uint64))
        return np.asarray(symbols.addresses[first:last])  # not a memmap, which is slow to index

    @cached_property
    def _in_modules(self) -> Words:
        starts = []
        for module in sorted(self.modules, key=lambda module: module.text):  # they follow each other, as do these
            starts.append(np.asarray(module.functions, np.uint64) + np.uint64(module.text[0]))
        found = np.concatenate([np.zeros(0, np.uint64), *starts])
        return found if np.all(found[1:] >= found[:-1]) else np.sort(found)  # a guest may say that they overlap

    def are_functions(self, addresses: Words) -> npt.NDArray[np.bool_]:
        """Whether each address is one at which a certified function begins."""
        in_kernel = _are_among(addresses - np.uint64(self.guest.slide), self._starts)
        return in_kernel | _are_among(addresses, self._in_modules)

    def is_function(self, address: int) -> bool:
        """Whether a certified function begins at the address."""
        return bool(self.are_functions(np.array([address], np.uint64))[0])

    def are_data(self, addresses: Words) -> npt.NDArray[np.bool_]:
        """Whether each address lies in the data of the kernel's image or of a certified module."""
        return _are_within(addresses, self._spans)

    def are_constant(self, addresses: Words) -> npt.NDArray[np.bool_]:
        """Whether each address lies in such data that is read-only, which is compared elsewhere."""
        return _are_within(addresses, self._constant_spans)

    @cached_property
    def _spans(self) -> Words:
        """Start and end of all data, ascending."""
        return np.array(sorted(self._data), np.uint64)

    @cached_property
    def _constant_spans(self) -> Words:
        return np.array(sorted(self._constants), np.uint64)

    def is_data(self, address: int) -> bool:
        """Whether the address lies in the data of the kernel's image or of a certified module."""
        return any(start <= address < end for start, end in self._data)

    def describe(self, address: int) -> str:
        """The address by symbol, or by module (its own word, if it is not certified) and offset, or as a number."""
        for module in (*self.modules, *self._others):
            if module.text[0] <= address < module.data[1]:
                foreign = " (a module that is not certified)" if module in self._others else ""
                return f"{module.name}+{address - module.text[0]:#x}{foreign}"
        return self.guest.describe(address)


def _are_within(addresses: Words, spans: Words) -> npt.NDArray[np.bool_]:
    """Whether each address lies in one of the spans, of which each row is a start and an end; they ascend."""
    at = np.searchsorted(spans[:, 0], addresses, "right") - 1
    inside: npt.NDArray[np.bool_] = (at >= 0) & (addresses < spans[at, 1])
    return inside


def _are_among(addresses: Words, known: Words) -> npt.NDArray[np.bool_]:
    """Whether each address is one of those known, which ascend."""
    if not len(known):
        return np.zeros(len(addresses), np.bool_)
    at = np.minimum(np.searchsorted(known, addresses), len(known) - 1)
    same: npt.NDArray[np.bool_] = known[at] == addresses
    return same
