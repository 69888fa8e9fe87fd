# SPDX-License-Identifier: GPL-2.0-or-later
"""A checker that a guest took over finds nothing to take further."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")

ATTEMPTS = {
    "read a file": "open('/etc/passwd')",
    "see files": "print(os.listdir('/')[0])",
    "write a file": "os.open('/x', os.O_CREAT | os.O_WRONLY)",
    "fork": "os.fork()",
    "start a thread": "threading.Thread(target=print).start()",
    "leave the directory": "os.chroot('..')",
    "become root": "os.setuid(0)",
    "reach the network": "socket.socket().connect(('127.0.0.1', PORT))",
    "open a raw socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "take all memory": "bytearray(2 << 30)",
    "kill another process": "os.kill(PARENT, 0)",
    "read another process": "open('/proc/1/mem')",
    "write into its RAM file": "os.write(RAM, b'x')",
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_nothing_is_left(tmp_path: Path, attempt: str) -> None:
    empty, ram = tmp_path / "empty", tmp_path / "ram"
    empty.mkdir()
    ram.write_bytes(b"memory")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        program = _program(attempt, empty, ram, listening.getsockname()[1])
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.split() == ["confined", "denied"], done


def _program(attempt: str, empty: Path, ram: Path, port: int) -> str:
    return f"""
import os, socket, threading
from pathlib import Path
from vinci.introspect.confine import confine
PARENT, PORT, RAM = os.getppid(), {port}, os.open({str(ram)!r}, os.O_RDONLY)
confine(Path({str(empty)!r}))
assert os.pread(RAM, 6, 0) == b"memory"
print("confined")
try:
    {attempt}
except (OSError, MemoryError, RuntimeError, IndexError):
    print("denied")
"""


def test_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    program = (
        f"from pathlib import Path; from vinci.introspect.confine import confine; confine(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert "is not empty" in done.stderr
