# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins at a terminal, as a person makes them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from installation import PASSWORD, VINCI, Installation


def set_window(rows: int, columns: int, terminal: int = 0) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


@contextmanager
def logged_in(hospital: Installation, user: str) -> Iterator[None]:
    """A doctor is logged in on the attacker's VM."""
    child, master = pty.fork()
    if child == 0:
        os.environ["VINCI_STATE"] = str(hospital.state)
        set_window(24, 80)
        os.execv(VINCI, [str(VINCI), "login", user, "--community", "doctors"])
    try:
        expect(master, rb"Password of \w+: ")
        os.write(master, PASSWORD.encode() + b"\n")
        expect(master, rb"\$ ")
        yield
    finally:
        os.write(master, b"exit\n")
        wait_for_end(child, master)


def expect(master: int, pattern: bytes, seconds: float = 60) -> bytes:
    seen = b""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, seen):
        ready, _, _ = select.select([master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"waited for {pattern!r}, saw {seen!r}"
        try:
            chunk = os.read(master, 4096)
        except OSError:
            chunk = b""
        assert chunk, f"ended before {pattern!r}, saw {seen!r}"
        seen += chunk
    return seen


def wait_for_end(child: int, master: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            os.close(master)
            return os.waitstatus_to_exitcode(status)
        if select.select([master], [], [], 0.2)[0]:
            try:
                os.read(master, 4096)
            except OSError:
                time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the login did not end")
