# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison can fail: every compiler that is broken on purpose differs from the declaration soon."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant
from random_infrastructures import disagreements, number

from vinci.model.load import load
from vinci.plan.compile import compile_plan
from vinci.plan.second_opinion import check_packets

EXAMPLES = Path(__file__).parents[3] / "examples"
SEED, MOST = 5, 15
"""`bench/random_infrastructures.py --mutants --seed 5` prints at which infrastructure each is found."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_compiler_is_found(mutant: Mutant) -> None:
    with mutant.at_work():
        assert any(_differs(index) for index in range(MOST))


@pytest.mark.parametrize("example", ["hospital", "utility"])
@pytest.mark.parametrize(
    "mutant", [each for each in MUTANTS if each.name.startswith("rules: FW-VMs")], ids=lambda mutant: mutant.name
)
def test_what_a_firewall_takes_and_says_itself_is_asked(example: str, mutant: Mutant) -> None:
    """With gateways and without."""
    infrastructure = load(EXAMPLES / f"{example}.yaml").infrastructure
    plan = compile_plan(infrastructure)
    assert list(check_packets(infrastructure, plan)) == []
    with mutant.at_work():
        assert list(check_packets(infrastructure, plan)) != []


def _differs(index: int) -> bool:
    try:
        return next(disagreements(number(SEED, index)), None) is not None
    except ValueError:  # the policy does not compile
        return True


def test_whole_compilers_make_what_was_declared() -> None:
    assert [text for index in range(MOST) for text in disagreements(number(SEED, index))] == []
