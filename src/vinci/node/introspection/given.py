# SPDX-License-Identifier: GPL-2.0-or-later
"""What each VM was started with and given since: what introspection compares its memory with.

Durable: a VM outlives the agent, and the agent's successor must not take it for clean without knowing what is clean.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from dataclasses import dataclass, replace

from vinci.introspect.protocol import packed, unpacked
from vinci.store.sqlite import Store

_LOG = logging.getLogger(__name__)
_MOST = 4
"""When load after load fails: the policy that surely was in force once, and the last ones."""


@dataclass(frozen=True, slots=True)
class Start:
    """One VM's last start, and what it was given since."""

    images: str
    """The digest of the images that it was started from."""
    policies: tuple[bytes, ...] = ()
    """The binary SELinux policies that may be in force: one, or more while it is told to load another."""
    came_up: bool = False
    """Its control channel has answered: it was past its boot once."""


class Given:
    """The last start of each VM. What is kept in memory holds; the disk follows as soon as it takes it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._starts = {vm: _decoded(text) for vm, text in store.starts().items()}
        self._unwritten: set[str] = set()

    def of(self, vm: str) -> Start | None:
        """A VM's last start; None when none is known."""
        return self._starts.get(vm)

    def starts(self, vm: str, images: str, policy: bytes | None) -> None:
        """The VM boots from these images and with this policy; None for a VM that is given none."""
        self._set(vm, Start(images, () if policy is None else (policy,)))

    def came_up(self, vm: str) -> None:
        """The VM has booted."""
        start = self._starts.get(vm)
        if start is not None and not start.came_up:
            self._set(vm, replace(start, came_up=True))

    def changes(self, vm: str, policy: bytes) -> None:
        """The VM is told to load this policy from now on; until that is done, any that it was told may be in force."""
        start = self._starts.get(vm)
        if start is not None:
            given = tuple(dict.fromkeys((*start.policies, policy)))
            self._set(vm, replace(start, policies=given if len(given) <= _MOST else (given[0], *given[1 - _MOST :])))

    def changed(self, vm: str, policy: bytes) -> None:
        """The VM has loaded it."""
        start = self._starts.get(vm)
        if start is not None:
            self._set(vm, replace(start, policies=(policy,)))

    def tidy(self) -> None:
        """Write what the disk has not taken yet."""
        for vm in sorted(self._unwritten):
            try:
                self._store.set_start(vm, _encoded(self._starts[vm]))
            except sqlite3.Error:
                _LOG.exception("what VM %s was given is not on the disk yet", vm)
                return
            self._unwritten.discard(vm)

    def _set(self, vm: str, start: Start) -> None:
        if self._starts.get(vm) != start:
            self._starts[vm] = start
            self._unwritten.add(vm)
            self.tidy()


def _encoded(start: Start) -> str:
    policies = [packed(policy) for policy in start.policies]
    return json.dumps({"images": start.images, "policies": policies, "came_up": start.came_up})


def _decoded(text: str) -> Start:
    found = json.loads(text)
    return Start(found["images"], tuple(unpacked(policy) for policy in found["policies"]), found["came_up"])
