# SPDX-License-Identifier: GPL-2.0-or-later
"""What a gateway's verdict says."""

from __future__ import annotations

from typing import TypeGuard

from vinci.guest.gateway.protocol import Forward, Refuse


def passes(verdict: Forward | Refuse | None) -> TypeGuard[Forward]:
    """Whether a request passes: (as it is sent, the answer that it has to get, whether it may be repeated)."""
    return verdict is not None and not isinstance(verdict, Refuse)
