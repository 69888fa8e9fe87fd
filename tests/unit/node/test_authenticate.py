# SPDX-License-Identifier: GPL-2.0-or-later
"""Passwords and the limit of attempts."""

from pathlib import Path

from argon2 import extract_parameters
from hypothesis import given
from hypothesis import strategies as st

from vinci.model.load import parse
from vinci.node.authenticate import (
    _NOBODY,
    FAILURE_WINDOW_SECONDS,
    FAILURES_ALLOWED,
    FailureLimit,
    verify_password,
)

EXAMPLE = Path(__file__).parents[3] / "examples" / "hospital.yaml"


def test_a_user_who_does_not_exist_costs_the_same_hash_as_the_examples_users() -> None:
    infrastructure = parse(EXAMPLE.read_bytes(), str(EXAMPLE)).infrastructure
    hashes = [user.password_hash for user in infrastructure.users.values() if user.password_hash]
    assert hashes
    assert {_cost(hash_) for hash_ in hashes} == {_cost(_NOBODY)}


def _cost(hash_: str) -> tuple[int, int, int]:
    parameters = extract_parameters(hash_)
    return parameters.memory_cost, parameters.time_cost, parameters.parallelism


def test_nobody_has_the_password_of_a_user_who_does_not_exist() -> None:
    assert not verify_password(None, "nobody has this password")


def test_a_broken_hash_fits_no_password() -> None:
    assert not verify_password("$argon2id$broken", "x")


@given(st.lists(st.floats(min_value=0, max_value=500), max_size=40).map(sorted))
def test_no_more_than_the_allowed_failures_within_any_window(attempts: list[float]) -> None:
    limit, admitted = FailureLimit(), []
    for now in attempts:
        if not limit.blocked(0, "sally", now):
            admitted.append(now)
            limit.failed(0, "sally", now)
    for now in admitted:
        within = [t for t in admitted if now <= t < now + FAILURE_WINDOW_SECONDS]
        assert len(within) <= FAILURES_ALLOWED
