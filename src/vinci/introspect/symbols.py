# SPDX-License-Identifier: GPL-2.0-or-later
"""The trusted kernel's symbols: names to link addresses and back."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

KERNEL_BASE = 0xFFFFFFFF80000000
"""Link addresses from here on are moved by the slide; those below are offsets into the per-CPU area."""


class Symbols:
    """Symbols sorted by link address.

    Args:
        addresses: one 64-bit link address for each name, ascending.
        names: the names in the same order, joined by newlines.
    """

    def __init__(self, addresses: npt.NDArray[np.uint64], names: bytes) -> None:
        self.addresses = addresses
        self.names = names.decode().split("\n")

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for name, address in zip(self.names, self.addresses.tolist(), strict=True):
            found.setdefault(name, []).append(address)
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> int:
        """The link address of a name that is used once. Raises KeyError when it is unknown or ambiguous."""
        addresses = self._by_name[name]
        if len(addresses) != 1:
            raise KeyError(f"{len(addresses)} symbols are called {name}")
        return addresses[0]

    def all(self, name: str) -> tuple[int, ...]:
        """Every link address of a name; static functions of different files may share one."""
        return tuple(self._by_name.get(name, ()))

    def describe(self, link_address: int) -> str:
        """`symbol+0x1c` for a link address; the plain number below the first symbol of the kernel."""
        at = int(np.searchsorted(self.addresses, np.uint64(link_address), "right")) - 1
        if at < 0 or link_address < KERNEL_BASE or int(self.addresses[at]) < KERNEL_BASE:
            return f"{link_address:#x}"
        return f"{self.names[at]}+{link_address - int(self.addresses[at]):#x}"
