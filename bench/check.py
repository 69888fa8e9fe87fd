# SPDX-License-Identifier: GPL-2.0-or-later
"""How long `vinci check` takes, step by step, for files of growing size; the last column shows whether it is linear.

Run: .venv/bin/python bench/check.py [VMs …]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from big_file import big_file

from vinci.model.infrastructure import Infrastructure
from vinci.model.source import read_yaml
from vinci.model.validate import validate
from vinci.plan.compile import compile_plan
from vinci.policy.expect import check_expectations
from vinci.policy.flows import analyse

SIZES = (1_000, 2_000, 5_000, 10_000)


Result = TypeVar("Result")


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """The result and the CPU seconds that it took."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def measure(vms: int) -> tuple[list[float], int]:
    """CPU seconds of each step for a file with so many VMs, and the number of problems found (none)."""
    text = big_file(vms).encode()
    document, reading = timed(lambda: read_yaml("big.yaml", text))
    infrastructure, typing = timed(lambda: Infrastructure.model_validate(document.data))
    problems, checking = timed(lambda: validate(infrastructure, document.source))
    analysis, proving = timed(lambda: analyse(infrastructure))
    _, expecting = timed(lambda: check_expectations(analysis, document.source))
    _, closing = timed(lambda: sum(1 for _ in analysis.passages()))
    _, compiling = timed(lambda: compile_plan(infrastructure))
    return [reading, typing, checking, proving, expecting, closing, compiling], len(problems)


def whole_command(vms: int) -> tuple[float, float]:
    """Wall and CPU seconds of `vinci check` in a process of its own."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "big.yaml"
        file.write_text(big_file(vms))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.monotonic()
        command = [sys.executable, "-c", "from vinci.cli.main import main; main()", "check", str(file)]
        subprocess.run(command, check=True, capture_output=True)
        wall = time.monotonic() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(sizes: list[int]) -> None:
    """Print one line a size."""
    steps = ["read", "type", "check", "prove", "expect", "closure", "compile"]
    print("   VMs  " + "".join(f"{step:>9}" for step in steps) + "      sum   per VM   vinci check: wall      CPU")
    for vms in sizes:
        seconds, problems = measure(vms)
        assert problems == 0
        total = sum(seconds)
        columns = "".join(f"{second:8.2f}s" for second in seconds)
        wall, cpu = whole_command(vms)
        print(f"{vms:6}  {columns} {total:7.2f}s {total / vms * 1e6:6.0f}us {wall:17.2f}s {cpu:7.2f}s", flush=True)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or list(SIZES))
