# SPDX-License-Identifier: GPL-2.0-or-later
"""An installation of Vinci as a test uses it: a state directory of its own, and the command line that works on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VINCI = Path(sys.executable).with_name("vinci")
PASSWORD = "vinci-demo"
"""The initial password of the example's users, see examples/hospital.yaml."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Installation:
    """A state directory of its own, and the CLI that works on it."""

    state: Path
    file: Path

    def vinci(self, *words: str, stdin: str = "", seconds: float = 300) -> Done:
        """Run the CLI."""
        environment = {**os.environ, "VINCI_STATE": str(self.state), "NO_COLOR": "1", "COLUMNS": "200"}
        done = subprocess.run(
            [str(VINCI), *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def check(self, *words: str, stdin: str = "", seconds: float = 300) -> str:
        """Run the CLI, which has to succeed; its output."""
        done = self.vinci(*words, stdin=stdin, seconds=seconds)
        assert done.status == 0, f"vinci {' '.join(words)}: {done}"
        return done.out

    def root(self, vm: str, script: str, seconds: float = 120) -> Done:
        """Run a shell script as root in a VM: an administrator, or an attacker who has taken the VM."""
        return self.vinci("exec", vm, "--", "sh", "-c", script, seconds=seconds)

    def login(self, user: str, script: str, *options: str, password: str = PASSWORD) -> Done:
        """Run a shell script as a user who logs in for it."""
        return self.vinci("login", user, *options, "--", "sh", "-c", script, stdin=password + "\n")

    def status(self) -> dict[str, Any]:
        """`vinci status --json`."""
        report: dict[str, Any] = json.loads(self.check("status", "--json"))
        return report

    def audit(self, since: int = 0) -> list[dict[str, Any]]:
        """Audit records from a number on."""
        text = self.check("audit", "--json", "--since", str(since))
        return [json.loads(line) for line in text.splitlines()]

    def next_audit(self) -> int:
        """The number of the next record."""
        return max((record["id"] for record in self.audit()), default=0) + 1

    def wait_for_audit(self, since: int, fits: Callable[[dict[str, Any]], bool], seconds: float = 30) -> dict[str, Any]:
        """The first record from a number on that fits; fails when none comes."""
        deadline = time.monotonic() + seconds
        seen: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            done = self.vinci("audit", "--json", "--since", str(since))  # the agent may be on its way back
            seen = [json.loads(line) for line in done.out.splitlines()]
            for record in seen:
                if fits(record):
                    return record
            time.sleep(0.3)
        raise AssertionError(f"no such audit record; these came: {seen[-10:]}")

    def address(self, vm: str, index: int = 0) -> str:
        """An address of a VM."""
        found = next(v for v in self.status()["vms"] if v["name"] == vm)
        return str(found["addresses"][index])
