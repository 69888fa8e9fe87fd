# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of the fuzzer; bench/fuzz_modbus.py does a million."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUZZER = Path(__file__).parents[3] / "bench" / "fuzz_modbus.py"
MESSAGES = 10_000


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False)


def test_mutated_messages_crash_nothing_and_pass_no_write() -> None:
    done = fuzz(str(FUZZER), str(MESSAGES))
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{MESSAGES} messages, no crash, no write let through" in done.stdout


WEAKER = """
import runpy, sys
import vinci.guest.gateway.modbus as modbus
whole = modbus.ModbusGateway.__init__
def weaker(self, functions, units, registers):
    whole(self, functions | {6}, units, registers)
modbus.ModbusGateway.__init__ = weaker
sys.argv = ["fuzz", "100000"]
runpy.run_path(sys.path.pop(0), run_name="__main__")
"""


def test_the_fuzzer_finds_a_write_that_passes() -> None:
    program = f"import sys; sys.path.insert(0, {str(FUZZER)!r})\n{WEAKER}"
    done = fuzz("-c", program)
    assert done.returncode != 0
    assert "function 6" in done.stdout + done.stderr
