# SPDX-License-Identifier: GPL-2.0-or-later
"""Which SELinux policy each VM was given: what introspection compares the one in its memory with."""

from __future__ import annotations

_MOST = 4
"""When load after load fails: the one that surely was in force once, and the last ones."""


class Policies:
    """The binary policies that may be in force in each VM: one, or more while it is told to load another."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[bytes, ...]] = {}

    def starts(self, vm: str, policy: bytes | None) -> None:
        """The VM boots with this policy; None for a VM that is given none."""
        self._given.pop(vm, None)
        if policy is not None:
            self._given[vm] = (policy,)

    def changes(self, vm: str, policy: bytes) -> None:
        """The VM is told to load this policy from now on; until that is done, any that it was told may be in force."""
        given = tuple(dict.fromkeys((*self._given.get(vm, ()), policy)))
        self._given[vm] = given if len(given) <= _MOST else (given[0], *given[1 - _MOST :])

    def changed(self, vm: str, policy: bytes) -> None:
        """The VM has loaded it."""
        self._given[vm] = (policy,)

    def of(self, vm: str) -> tuple[bytes, ...]:
        """What may be in force; nothing for a VM of which that is not known (yet)."""
        return self._given.get(vm, ())
