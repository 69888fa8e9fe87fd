# SPDX-License-Identifier: GPL-2.0-or-later
"""Same file, same plan, byte for byte: also in another process, where Python orders its sets differently."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from random_declarations import random_declaration
from strategies import to_yaml

EXAMPLES = Path(__file__).parents[3] / "examples"
PROGRAM = Path(__file__).with_name("fingerprint.py")


def fingerprints(seed: str, files: list[Path]) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, str(PROGRAM), *map(str, files)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The examples, and some that use what they do not."""
    folder = tmp_path_factory.mktemp("files")
    made = []
    for number in range(10):
        made.append(folder / f"{number}.yaml")
        made[-1].write_bytes(to_yaml(random_declaration(Random(f"same:{number}"))))
    return [*sorted(EXAMPLES.glob("*.yaml")), *made]


def test_the_order_of_sets_changes_nothing(files: list[Path]) -> None:
    first = fingerprints("1", files)
    assert len(first.splitlines()) == len(files)
    assert {fingerprints(seed, files) for seed in ("2", "3")} == {first}
