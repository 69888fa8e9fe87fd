# SPDX-License-Identifier: GPL-2.0-or-later
"""When a VM is looked at next: at a time nobody can foretell, the later the dearer its looks are. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vinci.model.infrastructure import Introspection

MAX_BACKOFF_SECONDS = 60.0
TAMPERED_FAILURES = 3
"""So many looks in a row at one VM that ended the checker count as tampering, when it could look at others between."""
DEAR = 4
"""A VM's looks take at most so small a part of the time, 1/DEAR: the others are looked at meanwhile."""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Looks at a VM that ended the checker, without a complete one between them."""

    times: int
    proof: int
    """Those of them before which the checker could look at another VM: then it is this VM that ends it."""
    looks: int
    """How many complete looks at VMs there were until the last of them."""

    def again(self, looks: int) -> Hindrance:
        """After another one, when there were so many complete looks at VMs."""
        return Hindrance(self.times + 1, self.proof + (looks > self.looks), looks)

    @property
    def is_tampering(self) -> bool:
        """Whether that can only be the VM's doing."""
        return self.proof >= TAMPERED_FAILURES


NO_HINDRANCE = Hindrance(0, 0, -1)


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return 0.0 if failures <= 0 else min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures - 1, 10))


def interval(settings: Introspection, chance: float) -> float:
    """Seconds from a look at a VM to the next, the period on average. `chance`: from 0 to 1, for nobody to foretell."""
    return settings.period_ms / 1000 * (1 + settings.jitter_percent / 100 * (chance - 0.5))


def rest(took: float, allowed: float) -> float:
    """Seconds from the begin of a look that took so long to the next one, at least.

    Args:
        took: the look's own time.
        allowed: how long a look holds. One that can be made again within it is, in good time.
    """
    return DEAR * took if took > allowed / 2 else min(DEAR * took, allowed / 2)
