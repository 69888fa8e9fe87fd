# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the command line many times without starting an interpreter each time, which costs half a second of processor.

A server of its own imports `vinci.cli.main` once. For each command it forks a process that takes over the given
standard streams and runs `main()` as the program `vinci` does. Tests of signals and terminals start the program itself.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

REQUEST_BYTES = 1 << 20
_lock = threading.Lock()
_control: socket.socket | None = None


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


def run(words: list[str], environment: dict[str, str], stdin: str, seconds: float) -> Done:
    """Run `vinci WORDS` with these variables beside the server's own.

    Raises:
        subprocess.TimeoutExpired: it took longer; it was killed.
    """
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source.write(stdin.encode())
        source.seek(0)
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with answers:
            with theirs:
                request = json.dumps({"words": words, "environment": environment}).encode()
                fds = [theirs.fileno(), source.fileno(), out.fileno(), err.fileno()]
                with _lock:
                    socket.send_fds(_server(), [request], fds)
            pid = int(answers.recv(64))
            answers.settimeout(seconds)
            try:
                status = int(answers.recv(64) or -signal.SIGKILL)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["vinci", *words], seconds) from None
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return Done(status, *texts)


def _server() -> socket.socket:
    """The connection to the server, which is started first when there is none; it ends with this process."""
    global _control
    if _control is None:
        _control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.Popen(
                [sys.executable, str(Path(__file__)), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
            )
        atexit.register(_control.close)
    return _control


def _serve(control: socket.socket) -> None:
    """Fork a process for each request, until the other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        untrusted, fds, _flags, _address = socket.recv_fds(control, REQUEST_BYTES, 4)
        if not untrusted:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            _command(json.loads(untrusted), fds)
        for fd in fds:
            os.close(fd)


def _command(request: dict[str, object], fds: list[int]) -> None:
    """Be one command, and tell its exit status."""
    status: object = 1
    answers = socket.socket(fileno=fds[0])
    try:
        for standard, fd in enumerate(fds[1:]):
            os.dup2(fd, standard)
            os.close(fd)
        answers.send(str(os.getpid()).encode())
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        sys.argv = ["vinci", *request["words"]]  # type: ignore[misc]
        from vinci.cli.main import main

        main()
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        answers.send(str(status).encode())
        os._exit(0)


if __name__ == "__main__":
    import vinci.cli.main  # noqa: F401

    _serve(socket.socket(fileno=int(sys.argv[1])))
