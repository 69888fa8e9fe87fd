# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's end of the checker process: start it, ask it, end it. It is believed no more than a guest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from vinci.images.build import Images
from vinci.introspect.confine import CHECKER_USER
from vinci.introspect.findings import Check, Look, Verdict
from vinci.introspect.protocol import MAX_ANSWER, MAX_REQUEST, Request
from vinci.node.introspection.answers import AnswerError, look_of

READY_SECONDS = 180.0
"""For a start; the first one with new images makes their profile."""
_CHUNK = 64 * 1024
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
"""One thread: a confined process may make no other."""


class CheckerError(Exception):
    """The checker ended, hung or talked nonsense; it has to be ended and started anew."""


class TooLargeError(Exception):
    """A request that the checker does not take; nothing was sent."""


def command(images: Images, empty: Path) -> list[str]:
    """The checker's command line, but for its socket.

    Args:
        images: what the VMs were started from.
        empty: an empty directory, which the checker is confined to.

    Raises:
        CheckerError: the user that it has to become does not exist.
    """
    try:
        pwd.getpwnam(CHECKER_USER)
    except KeyError:
        raise CheckerError(
            f"the checker cannot be started, there is no user {CHECKER_USER}: run `make install`"
        ) from None
    module = [sys.executable, "-I", "-m", "vinci.introspect.checker"]
    return [*module, "--images", str(images.kernel.parent), "--empty", str(empty)]


class Checker:
    """A running checker. Not for two questions at once."""

    def __init__(self, process: asyncio.subprocess.Process, connection: socket.socket) -> None:
        self._process = process
        self._socket = connection
        self._checks: tuple[Check, ...] = ()
        self.knows: set[str] = set()
        """Instances whose RAM it was given."""

    @classmethod
    async def start(cls, words: Sequence[str]) -> Self:
        """Start one and wait until it is confined and ready.

        Raises:
            CheckerError: it did not get so far; its log says why.
        """
        own, its = socket.socketpair()
        own.setblocking(False)
        with its:
            try:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    *("--socket", str(its.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=(its.fileno(),),
                    cwd="/",
                    env={"PATH": os.environ.get("PATH", ""), **_ENVIRONMENT},
                )
            except OSError as error:
                own.close()
                raise CheckerError(f"the checker cannot be started: {error}") from error
        checker = cls(process, own)
        try:
            async with asyncio.timeout(READY_SECONDS):
                line = await checker._line()
            checker._checks = tuple(Check(name) for name in json.loads(line)["checks"])
        except (CheckerError, TimeoutError, ValueError, KeyError, TypeError) as error:
            await checker.end()
            raise CheckerError("the checker did not come up: see the agent's log") from error
        except BaseException:
            await checker.end()
            raise
        return checker

    async def look(self, request: Request, ram: int | None, seconds: float) -> Look:
        """Ask for one look. `ram`: a file descriptor of the VM's RAM, for an instance that it does not know.

        Raises:
            CheckerError: no valid answer came in time. The checker cannot be used any more.
            TooLargeError: the VM was given more policies than a request holds.
        """
        asked = request.encode()
        if len(asked) > MAX_REQUEST:
            size = f"{len(asked) / 1024**2:.1f} MiB of at most {MAX_REQUEST / 1024**2:g} MiB"
            raise TooLargeError(f"its SELinux policies are more than the checker takes ({size})")
        try:
            async with asyncio.timeout(seconds):
                line = await self._ask(asked, ram)
            look = look_of(line, request.vm, request.instance, self._checks)
        except TimeoutError:
            raise CheckerError(f"the checker did not end its look at {request.vm} within {seconds:g} s") from None
        except AnswerError as error:
            raise CheckerError(str(error)) from None
        self.knows.intersection_update(request.running)
        if ram is not None and look.verdict is not Verdict.UNREACHABLE:
            self.knows.add(request.instance)
        return look

    async def end(self) -> None:
        """Kill it, at whatever it is, and wait for its end."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def _ask(self, line: bytes, ram: int | None) -> bytes:
        try:
            sent = socket.send_fds(self._socket, [line], [ram]) if ram is not None else 0
            await asyncio.get_running_loop().sock_sendall(self._socket, line[sent:])
        except OSError as error:
            raise CheckerError("the checker ended") from error
        return await self._line()

    async def _line(self) -> bytes:
        """The next line, which has to be all that was sent."""
        loop = asyncio.get_running_loop()
        line = b""
        while not line.endswith(b"\n"):
            try:
                chunk = await loop.sock_recv(self._socket, _CHUNK)
            except OSError as error:
                raise CheckerError("the checker ended") from error
            line += chunk
            if not chunk:
                raise CheckerError("the checker ended")
            if len(line) > MAX_ANSWER or b"\n" in line[:-1]:
                raise CheckerError("the checker does not keep to the protocol")
        return line
