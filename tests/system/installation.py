# SPDX-License-Identifier: GPL-2.0-or-later
"""An installation of Vinci as a test uses it: a state directory of its own, and the command line that works on it."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import warm_cli
from warm_cli import Done

ROOT = Path(__file__).parents[2]
VINCI = Path(sys.executable).with_name("vinci")
PASSWORD = "vinci-demo"
"""The initial password of the example's users, see examples/hospital.yaml."""


@dataclass(frozen=True)
class Installation:
    """A state directory of its own, and the CLI that works on it."""

    state: Path
    file: Path

    def vinci(self, *words: str, stdin: str = "", seconds: float = 300) -> Done:
        """Run the CLI."""
        return warm_cli.run(list(words), {"VINCI_STATE": str(self.state)}, stdin, seconds)

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

    def up(self) -> None:
        """Put its file in force."""
        self.check("up", str(self.file), seconds=600)

    def next_audit(self) -> int:
        """The number of the next record."""
        return max((record["id"] for record in self.audit()), default=0) + 1

    def wait_for_audit(self, since: int, fits: Callable[[dict[str, Any]], bool], seconds: float = 30) -> dict[str, Any]:
        """The first record from a number on that fits; fails when none comes."""
        deadline = time.monotonic() + seconds
        seen: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            with self._followed(since) as lines:  # ends early while the agent is on its way back
                for line in lines(deadline):
                    seen.append(json.loads(line))
                    if fits(seen[-1]):
                        return seen[-1]
            since = seen[-1]["id"] + 1 if seen else since
            time.sleep(0.3)
        raise AssertionError(f"no such audit record; these came: {seen[-10:]}")

    @contextmanager
    def _followed(self, since: int) -> Iterator[Callable[[float], Iterator[str]]]:
        """The audit's lines from a number on, as they come, until a deadline of the monotonic clock or the end."""
        process = subprocess.Popen(
            [str(VINCI), "audit", "--json", "--follow", "--since", str(since)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "VINCI_STATE": str(self.state)},
        )
        stream = process.stdout
        assert stream is not None

        def lines(deadline: float) -> Iterator[str]:
            buffer = b""
            while select.select([stream], [], [], max(0, deadline - time.monotonic()))[0]:
                chunk = os.read(stream.fileno(), 65536)
                if not chunk:
                    return
                *complete, buffer = (buffer + chunk).split(b"\n")
                yield from (line.decode() for line in complete)

        try:
            yield lines
        finally:
            process.kill()
            process.wait()
            stream.close()

    def address(self, vm: str, index: int = 0) -> str:
        """An address of a VM."""
        found = next(v for v in self.status()["vms"] if v["name"] == vm)
        return str(found["addresses"][index])


@contextmanager
def installed(file: Path | None = None) -> Iterator[Installation]:
    """An installation that nobody shares, not up yet; it is taken down and leaves nothing, also when a test fails.

    Args:
        file: the infrastructure file; None: one that is still to be written, in the state directory.
    """
    if os.geteuid() != 0:
        pytest.fail("system tests need root: they make network namespaces and start VMs")
    state = Path(tempfile.mkdtemp(prefix="vinci-t-", dir="/tmp"))
    state.chmod(0o711)  # QEMU's user has to get through
    made = Installation(state, file or state / "infrastructure.yaml")
    try:
        yield made
    finally:
        done = made.vinci("down")
        if done.status == 0:
            shutil.rmtree(state, ignore_errors=True)
        else:
            print(f"the test's VMs could not be taken down ({done.err}); their state is {state}", file=sys.stderr)
