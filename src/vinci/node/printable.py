# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of guests and users, made harmless for terminals and logs. A room of its own: the CLI needs it at each start."""

from __future__ import annotations


def printable(untrusted: str) -> str:
    """The text with control characters replaced, so that a guest cannot write to an administrator's terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in untrusted)
