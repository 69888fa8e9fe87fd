# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of guest memory that is verified, and the digest that stands for it."""

from __future__ import annotations

import pytest
from synthetic import BASE, guest, put

from vinci.introspect.memory import PAGE_SIZE, Unreadable
from vinci.introspect.selinux.snapshot import Snapshot

REGIONS = {BASE + 16: 8, BASE + PAGE_SIZE - 8: 24}


def test_what_is_verified_is_what_the_digest_is_of() -> None:
    seen, ram = guest()
    put(ram, BASE + 16, 1)
    put(ram, BASE + PAGE_SIZE, 2, 3)
    snapshot, frozen = Snapshot.of(seen, REGIONS)
    put(ram, BASE + 16, 9)  # the guest changes it before it is verified
    assert frozen.u64(BASE + 16) == 1
    assert frozen.u64(BASE + PAGE_SIZE) == 2
    assert not snapshot.holds(seen)
    put(ram, BASE + 16, 1)
    assert snapshot.holds(seen)


def test_what_was_not_read_may_change_and_is_not_in_the_copy() -> None:
    seen, ram = guest()
    snapshot, frozen = Snapshot.of(seen, REGIONS)
    put(ram, BASE + 24, 7)
    assert snapshot.holds(seen)
    with pytest.raises(Unreadable):
        frozen.u64(BASE + 5 * PAGE_SIZE)
