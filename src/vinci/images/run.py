# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place of this room that runs programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_TAIL_LINES = 15


class ImageError(Exception):
    """An image cannot be built; the message says which step failed, how, and what to do."""


def run(argv: list[str], *, log: Path | None = None, cwd: Path | None = None) -> str:
    """Run a program to its end and return what it wrote to standard output.

    With `log`, both its outputs are appended there and "" is returned. The program gets no standard input, the C locale
    and no debconf questions. Raises ImageError with its last lines when it is missing or fails.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        result = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            cwd=cwd,
            env=environment,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as missing:
        raise ImageError(f"program {argv[0]} is not installed: run scripts/install-packages") from missing
    if log is not None:
        with log.open("a") as file:
            file.write(f"$ {' '.join(argv)}\n{result.stdout}")
    if result.returncode != 0:
        said = (result.stdout if log else result.stderr).splitlines()[-_TAIL_LINES:]
        raise ImageError("\n".join([f"{argv[0]} failed with status {result.returncode}:", *said]))
    return "" if log else result.stdout
