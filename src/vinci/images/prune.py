# SPDX-License-Identifier: GPL-2.0-or-later
"""Removes sets of images that nothing needs any more."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from vinci.images.build import CURRENT, locked

_SET = re.compile(r"[0-9a-f]{24}")


def prune(cache_dir: Path, processes: Path = Path("/proc")) -> list[str]:
    """Remove every set of images but the current one and those that a running VM has open; returns their names.

    Needs root, to see what other users' processes have open. An agent that was started before the current set was
    made has to be restarted afterwards.
    """
    with locked(cache_dir):
        needed = _opened(cache_dir.resolve(), processes)
        with contextlib.suppress(OSError):
            needed.add((cache_dir / CURRENT).resolve(strict=True).name)
        unneeded = [path for path in cache_dir.iterdir() if _SET.fullmatch(path.name) and path.name not in needed]
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
