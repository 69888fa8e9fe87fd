# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's side of a process in a VM: raw terminal, window size, streams, exit status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vinci.cli.client import BASE, connected
from vinci.cli.failure import Failure, Status
from vinci.node.frames import CHUNK, Stream
from vinci.node.paths import NodePaths

if TYPE_CHECKING:
    import aiohttp


def terminal_of(wanted: bool) -> dict[str, object] | None:
    """The terminal to ask for: ours when standard input and output both are one."""
    if not (wanted and sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    size = _window()
    return {"kind": os.environ.get("TERM", "dumb"), "columns": size.columns, "rows": size.lines}


def _window() -> os.terminal_size:
    """The window's size now; COLUMNS and LINES in the environment may be those of another."""
    return os.get_terminal_size(sys.stdout.fileno())


async def converse(paths: NodePaths, path: str, first: dict[str, Any], *, announce: bool) -> dict[str, Any]:
    """Run the process asked for by `first` on our streams; the agent's last message.

    Raises:
        Failure: the agent broke off before the end.
    """
    async with connected(paths) as session, session.ws_connect(BASE + path, max_msg_size=0) as socket:
        from aiohttp import WSMsgType  # loaded by `connected`

        await socket.send_json(first)
        end: dict[str, Any] | None = None
        with _raw(first.get("terminal") is not None):
            reading: asyncio.Task[None] | None = None if announce else asyncio.create_task(_send(socket, first))
            try:
                async for message in socket:
                    if message.type is WSMsgType.BINARY:
                        _write(message.data)
                        continue
                    answer = json.loads(message.data)
                    if "session" in answer:
                        reading = asyncio.create_task(_send(socket, first))
                    else:
                        end = answer
                        break
            finally:
                if reading is not None:
                    reading.cancel()
        if end is None:
            raise Failure("the agent broke off before the end", Status.FAILED)
        return end


def _write(frame: bytes) -> None:
    if frame[:1] != bytes([Stream.STDERR]):
        sys.stdout.buffer.write(frame[1:])
        sys.stdout.buffer.flush()
        return
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.buffer.write(frame[1:])
        sys.stderr.buffer.flush()


async def _send(socket: aiohttp.ClientWebSocketResponse, first: dict[str, Any]) -> None:
    """Send what comes on standard input, and the window's size whenever it changes."""
    loop = asyncio.get_running_loop()
    if first.get("terminal") is not None:
        loop.add_signal_handler(signal.SIGWINCH, lambda: loop.create_task(_resize(socket)))
    reader = asyncio.StreamReader()
    if _is_watchable(os.fstat(sys.stdin.fileno()).st_mode):
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    else:
        reader.feed_data(sys.stdin.buffer.read())
        reader.feed_eof()
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(CHUNK):
            await socket.send_bytes(bytes([Stream.STDIN]) + chunk)
        await socket.send_bytes(bytes([Stream.STDIN]))


def _is_watchable(mode: int) -> bool:
    """Files and /dev/null cannot be watched by epoll(7), and reading them never blocks."""
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and sys.stdin.isatty())


async def _resize(socket: aiohttp.ClientWebSocketResponse) -> None:
    size = _window()
    with contextlib.suppress(ConnectionError):
        await socket.send_str(json.dumps({"resize": [size.columns, size.lines]}))


@contextlib.contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
