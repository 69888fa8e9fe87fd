# SPDX-License-Identifier: GPL-2.0-or-later
"""What the CLI and the agent agree on when they carry a process's streams (`vinci.node.relay`)."""

from __future__ import annotations

from enum import IntEnum

CHUNK = 32 * 1024
"""Most bytes of a stream in one frame."""


class Stream(IntEnum):
    """The first byte of a binary frame."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
