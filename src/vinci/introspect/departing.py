# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of certified modules that the kernel is about to free: it stays executable until all processors let go of it.

That lasts for a grace period of RCU, which in a throttled VM is longer than all samples of a check together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vinci.introspect.guest import Guest
from vinci.introspect.linking import Derived, Linker
from vinci.introspect.loaded import LoadedModule, listed, module_area, plausible, scanned
from vinci.introspect.profile.module_file import ModuleFile
from vinci.introspect.sites import unexplained


def departing(guest: Guest, runs: dict[int, int]) -> list[int]:
    """Which of the runs of executable pages (size by start) hold, to the byte, such text and nothing else.

    Either the whole text of a module that was taken off the list and marked as no longer formed (free_module), or
    what one that is in use ran when it was loaded (do_free_init).
    """
    if not runs:
        return []
    on_list = set(listed(guest))
    known = [
        (module, file)
        for module in plausible(guest, on_list | scanned(guest, module_area(guest)))
        if (file := guest.profile.module(module.name)) is not None
    ]
    linker = Linker(guest, [module for module, _ in known])
    return [
        start
        for start, size in runs.items()
        if any(_same(guest, part) for part in _candidates(linker, known, on_list, start, size))
    ]


def _candidates(
    linker: Linker, known: list[tuple[LoadedModule, ModuleFile]], on_list: set[int], start: int, size: int
) -> Iterator[Derived]:
    """What may have been loaded there."""
    for module, file in known:
        gone = module.address not in on_list and module.state == "unformed"
        if gone and (module.base, file.core.text) == (start, size):
            yield linker.derive(replace(module, init=0), file)[0]
        if not gone and file.init.text == size:
            yield linker.derive(replace(module, init=start, state="coming"), file)[1]


def _same(guest: Guest, part: Derived) -> bool:
    seen = np.frombuffer(guest.read(part.code.base, part.text), np.uint8)
    return not len(unexplained(seen, part.code.content[: part.text], part.allowed))
