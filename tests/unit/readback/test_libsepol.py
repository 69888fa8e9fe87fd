# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench compiles policies by libsepol itself: what it measures is what `secilc` makes, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from libsepol import compile_in_process

from vinci.model.load import load
from vinci.node.payload import compile_policy
from vinci.plan.compile import compile_plan

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["hospital", "utility", "company"])
def test_the_binary_is_that_of_secilc(name: str) -> None:
    plan = compile_plan(load(ROOT / "examples" / f"{name}.yaml").infrastructure)
    for service in plan.nodes[0].file_services:
        assert compile_in_process(service.policy_cil) == compile_policy(service.policy_cil)


def test_a_text_that_is_no_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="does not compile"):
        compile_in_process("(class file")
