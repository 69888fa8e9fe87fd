# SPDX-License-Identifier: GPL-2.0-or-later
"""SELinux policies that an attacker would rather have in an APP-VM than the image's."""

from __future__ import annotations

from vinci.node.payload import compile_policy
from vinci.policy.app_policy import app_policy


def laxer_policy(*allowed: tuple[str, str, str, str]) -> bytes:
    """The image's policy without its assertions, and with further rights: subject, type, class, permissions."""
    kept = [line for line in app_policy().splitlines() if not line.startswith("(neverallow")]
    rules = [f"(allow {subject} {type_} ({class_} ({rights})))" for subject, type_, class_, rights in allowed]
    return compile_policy("\n".join([*kept, *rules]))
