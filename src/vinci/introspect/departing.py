# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of certified modules that the kernel is about to free: it stays executable until all processors let go of it.

That lasts for a grace period of RCU, which in a throttled VM is longer than all samples of a check together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vinci.introspect.guest import Guest
from vinci.introspect.linking import Derived, Linker
from vinci.introspect.loaded import LoadedModule, listed, module_area, plausible, scanned
from vinci.introspect.memory import Bytes
from vinci.introspect.profile.module_file import ModuleFile
from vinci.introspect.sites import unexplained

MAX_RUNS = 8
MAX_SIZE = 1 << 20
"""More and larger ones are not freed at once."""


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
    found = []
    for start, size in list(runs.items())[:MAX_RUNS]:
        seen = np.frombuffer(guest.read(start, size), np.uint8) if size <= MAX_SIZE else np.zeros(0, np.uint8)
        candidates = _candidates(linker, known, on_list, start, seen)
        if any(not len(unexplained(seen, part.code.content[: part.text], part.allowed)) for part in candidates):
            found.append(start)
    return found


def _candidates(
    linker: Linker, known: list[tuple[LoadedModule, ModuleFile]], on_list: set[int], start: int, seen: Bytes
) -> Iterator[Derived]:
    """What may have been loaded there, as far as the module can be linked at all."""
    for module, file in known:
        gone = module.address not in on_list and module.state == "unformed"
        with contextlib.suppress(KeyError, ValueError):
            if gone and module.base == start and _alike(seen, file.unlinked_text):
                yield linker.derive(replace(module, init=0), file)[0]
            elif not gone and _alike(seen, file.unlinked_init):
                yield linker.derive(replace(module, init=start, state="coming"), file)[1]


def _alike(seen: Bytes, unlinked: Bytes) -> bool:
    """Whether it is worth linking: most bytes of a text are not touched by that."""
    return len(seen) == len(unlinked) and 2 * int(np.count_nonzero(seen == unlinked)) > len(seen)
