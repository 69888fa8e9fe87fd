# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison can fail: every compiler that is broken on purpose differs from the declaration soon."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, Mutant
from random_infrastructures import disagreements, number

SEED, MOST = 3, 15
"""`bench/random_infrastructures.py --mutants --seed 3` prints at which infrastructure each is found."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_compiler_is_found(mutant: Mutant) -> None:
    with mutant.at_work():
        assert any(_differs(index) for index in range(MOST))


def _differs(index: int) -> bool:
    try:
        return next(disagreements(number(SEED, index)), None) is not None
    except ValueError:  # the policy does not compile
        return True


def test_whole_compilers_make_what_was_declared() -> None:
    assert [text for index in range(MOST) for text in disagreements(number(SEED, index))] == []
