# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of each VM, and what a look or its absence makes of that. Pure: the time comes from the caller.

    starts ─► UNCHECKED ─look─► TRUSTED ─look─► COMPROMISED ─clean look and an administrator's word─► TRUSTED
                  ▲                │
                  └── no look in time, checker failed

A VM that was found compromised stays so, whatever later looks say and however often it is started anew, until it is
released: a rootkit that takes its hooks out for a moment has not gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vinci.introspect.findings import Look, Verdict
from vinci.node.introspection.given import Start
from vinci.plan.types import Vm, VmKind

BOOT_SECONDS = 120.0
"""A VM that did not come up in this time is looked at all the same; tampering is not told from a slow boot then."""
NOT_LOOKED_AT = "it was not looked at since it was started"


@dataclass(frozen=True, slots=True)
class Assurance:
    """What is known of one VM. Times are of one monotonic clock, in seconds.

    `observed` is what the last attempt to look showed; `verdict` is what holds.
    """

    instance: str
    observed: Verdict
    reason: str
    """Why it is unchecked or unreachable; empty otherwise."""
    since: float
    """From when on it has been due: its start, or the begin of its last complete look."""
    look: Look | None = None
    """The last complete look at this instance."""
    incident: bool = False
    """Found compromised, and not released since."""
    clean: bool = False
    """With an incident: all of the last complete look was clean."""

    @property
    def verdict(self) -> Verdict:
        """What holds: an incident outweighs what the last look showed."""
        return Verdict.COMPROMISED if self.incident else self.observed

    @property
    def releasable(self) -> bool:
        """Whether an administrator's word is all that is missing."""
        return self.incident and self.clean and self.observed is Verdict.TRUSTED


def started(instance: str, now: float, *, incident: bool) -> Assurance:
    """A VM that runs and was not looked at yet. `incident`: one of its name is open."""
    return Assurance(instance, Verdict.UNCHECKED, NOT_LOOKED_AT, now, incident=incident)


def looked(before: Assurance, look: Look, began: float) -> Assurance:
    """After a look that began at `began`, complete or in vain."""
    if look.verdict in (Verdict.UNREACHABLE, Verdict.UNCHECKED):
        return replace(before, observed=look.verdict, reason=look.reason, clean=False)
    compromised = look.verdict is Verdict.COMPROMISED
    return replace(
        before,
        observed=look.verdict,
        reason="",
        since=began,
        look=look,
        incident=before.incident or compromised,
        clean=not compromised,
    )


def failed(before: Assurance, reason: str) -> Assurance:
    """After a look that the checker did not end."""
    return replace(before, observed=Verdict.UNCHECKED, reason=reason, clean=False)


def at(before: Assurance, now: float, allowed: float) -> Assurance:
    """At the time `now`: a VM without a complete look for more than `allowed` seconds is unchecked."""
    if before.observed not in (Verdict.TRUSTED, Verdict.COMPROMISED) or now - before.since <= allowed:
        return before
    reason = f"no look at it ended within {allowed:g} s"
    return replace(before, observed=Verdict.UNCHECKED, reason=reason, clean=False)


def released(before: Assurance) -> Assurance:
    """After an administrator's word. Raises ValueError unless it was `releasable`."""
    if not before.releasable:
        raise ValueError("not releasable")
    return replace(before, incident=False, clean=False)


def held_back(look: Look, vm: Vm, given: Start | None) -> Look:
    """A look as it counts, by what is known of the VM's start. Its findings stay to be shown."""
    if look.verdict is Verdict.COMPROMISED and given is not None and not given.came_up:
        reason = f"it did not come up within {BOOT_SECONDS:g} s, and what is in its memory is no booted system"
    elif look.verdict is Verdict.TRUSTED and vm.kind is VmKind.FS and given is not None and not given.policies:
        reason = "the SELinux policy that it was given is not known"
    else:
        return look
    return replace(look, verdict=Verdict.UNCHECKED, reason=reason)


def unfit_for(given: Start | None, images: str) -> str | None:
    """Why a VM cannot be compared with images; None when it was started from them."""
    if given is None:
        return "what it was started from is not known: it is checked after its next start"
    if given.images != images:
        return "it is being replaced: it was started from other images than VMs are now"
    return None


def unchecked(name: str, reason: str) -> Look:
    """A look that did not come about."""
    return Look(name, Verdict.UNCHECKED, (), 0.0, reason)
