# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VM was started with, and which policies it may have in force: also known to the next agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vinci.node.introspection.given import Given, Start
from vinci.store.sqlite import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "node.db")
    yield store
    store.close()


def _policies(given: Given) -> tuple[bytes, ...]:
    start = given.of("files")
    assert start is not None
    return start.policies


def test_while_a_vm_loads_another_policy_either_may_be_in_force(store: Store) -> None:
    given = Given(store)
    given.starts("files", "images", b"old")
    assert _policies(given) == (b"old",)
    given.changes("files", b"new")
    assert _policies(given) == (b"old", b"new")
    given.changed("files", b"new")
    assert _policies(given) == (b"new",)


def test_loads_that_fail_leave_what_was_in_force_among_them(store: Store) -> None:
    given = Given(store)
    given.starts("files", "images", b"old")
    for number in range(50):
        given.changes("files", b"new %d" % (number // 2))
    assert _policies(given) == (b"old", b"new 22", b"new 23", b"new 24")


def test_a_vm_without_a_policy_has_none_also_after_one_that_had(store: Store) -> None:
    given = Given(store)
    given.starts("files", "images", b"old")
    given.starts("files", "images", None)
    assert _policies(given) == ()


def test_the_next_agent_knows_what_a_vm_was_started_with_and_given_since(store: Store) -> None:
    given = Given(store)
    given.starts("files", "images", b"\x00old" * 1000)
    given.came_up("files")
    given.changes("files", b"new")
    assert Given(store).of("files") == Start("images", (b"\x00old" * 1000, b"new"), came_up=True)
    given.starts("files", "others", b"old")
    assert Given(store).of("files") == Start("others", (b"old",), came_up=False)


def test_of_a_vm_that_it_did_not_start_an_agent_claims_nothing(store: Store) -> None:
    given = Given(store)
    given.changes("other", b"new")
    given.changed("other", b"new")
    given.came_up("other")
    assert given.of("other") is None


def test_what_the_disk_does_not_take_holds_and_is_written_later(store: Store) -> None:
    given = Given(store)
    given.starts("files", "images", b"old")
    store._db.execute("pragma query_only = on")
    given.changes("files", b"new")
    assert _policies(given) == (b"old", b"new")
    assert _policies(Given(store)) == (b"old",)
    store._db.execute("pragma query_only = off")
    given.tidy()
    assert _policies(Given(store)) == (b"old", b"new")
