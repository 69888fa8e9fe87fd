# SPDX-License-Identifier: GPL-2.0-or-later
"""Removes sets of images that nothing needs any more."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from vinci.images.build import CURRENT, locked

_SET = re.compile(r"(?:profile-)?([0-9a-f]{24})(?:-[0-9a-f]+)?")
"""A set, or the trusted profile (`vinci.introspect.profile`) that was made of one; the group is the set's name."""


def prune(cache_dir: Path, processes: Path = Path("/proc")) -> list[str]:
    """Remove every set of images, and what was made of it, but the current one and those that a running VM has open.

    Returns the names of what was removed. Needs root, to see what other users' processes have open. An agent that was
    started before the current set was made has to be restarted afterwards.
    """
    with locked(cache_dir):
        needed = _opened(cache_dir.resolve(), processes)
        with contextlib.suppress(OSError):
            needed.add((cache_dir / CURRENT).resolve(strict=True).name)
        named = ((path, _SET.fullmatch(path.name)) for path in cache_dir.iterdir())
        unneeded = [path for path, name in named if name and name[1] not in needed]
        for path in unneeded:
            shutil.rmtree(path)
    return sorted(path.name for path in unneeded)


def _opened(cache: Path, processes: Path) -> set[str]:
    """Names of the sets that hold a file which some process has open."""
    names: set[str] = set()
    for descriptor in processes.glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            target = descriptor.readlink()
            if target.is_relative_to(cache):
                names.add(target.relative_to(cache).parts[0])
    return names
