# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries a process in a guest to a client of the agent: standard streams, terminal size, signals, exit status.

The carrier is a WebSocket (RFC 6455). Binary frames hold stream bytes behind one byte that names the stream; text
frames hold JSON (`{"resize": [columns, rows]}`, `{"exit": status}`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket as sockets
from collections.abc import Sequence
from dataclasses import dataclass

import asyncssh
from aiohttp import WSMsgType, web

from vinci.node.channel import Channel
from vinci.node.frames import CHUNK, Stream

MAX_COLUMNS = MAX_ROWS = 10_000
HANG_UP_SECONDS = 1.0
CLOSE_SECONDS = 10.0
"""What a guest gets to end a process whose client went away: a hostile one must not keep the session open."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """The client's terminal; None in its place means plain streams."""

    kind: str
    columns: int
    rows: int


async def relay(socket: web.WebSocketResponse, channel: Channel, command: str, terminal: Terminal | None) -> int:
    """Run `command` in the guest for the client at `socket`; its exit status (128+n when signal n ended it).

    The process ends when the client goes away, and only then: a client that is stopped or whose output nobody reads,
    and a process that does not read its input, wait for each other as at a pipe.

    Raises:
        ChannelError: the guest refused to start it.
    """
    options: dict[str, object] = {}
    if terminal is not None:
        options = {"term_type": terminal.kind, "term_size": (terminal.columns, terminal.rows)}
    process = await channel.process(command, **options)
    outputs = [
        asyncio.ensure_future(_out(process.stdout, Stream.STDOUT, socket)),
        asyncio.ensure_future(_out(process.stderr, Stream.STDERR, socket)),
    ]
    inputs = asyncio.ensure_future(_in(socket, process))
    gone = asyncio.ensure_future(_hung_up(socket.get_extra_info("socket")))
    finished = asyncio.ensure_future(_end(process, outputs))
    try:
        await asyncio.wait({inputs, gone, finished}, return_when=asyncio.FIRST_COMPLETED)
        if not finished.done():
            process.close()  # the client went away
            await asyncio.wait({finished}, timeout=CLOSE_SECONDS)
    finally:
        for task in (inputs, gone, finished, *outputs):
            task.cancel()
        process.close()
    return _status(process)


async def _end(process: asyncssh.SSHClientProcess[bytes], outputs: Sequence[asyncio.Future[None]]) -> None:
    await asyncio.gather(*outputs)
    await process.wait_closed()


async def _hung_up(connection: sockets.socket) -> None:
    """Wait for the peer of a Unix socket to close it: while the guest takes no input nobody reads its stream's end."""
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP comes unasked
    while not poll.poll(0):
        await asyncio.sleep(HANG_UP_SECONDS)


def _status(process: asyncssh.SSHClientProcess[bytes]) -> int:
    if process.exit_signal is not None:
        return 128 + _SIGNALS.get(process.exit_signal[0], 0)
    return 255 if process.exit_status is None else process.exit_status


_SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "PIPE": 13, "ALRM": 14, "TERM": 15, "SEGV": 11, "ABRT": 6}


async def _out(reader: asyncssh.SSHReader[bytes], stream: Stream, socket: web.WebSocketResponse) -> None:
    with contextlib.suppress(OSError, asyncssh.Error, ConnectionError):
        while chunk := await reader.read(CHUNK):
            await socket.send_bytes(bytes([stream]) + chunk)


async def _in(socket: web.WebSocketResponse, process: asyncssh.SSHClientProcess[bytes]) -> None:
    """Pass the client's frames on until it closes; a frame that makes no sense ends the session."""
    with contextlib.suppress(OSError, asyncssh.Error):
        async for message in socket:
            if message.type is WSMsgType.BINARY and message.data[:1] == bytes([Stream.STDIN]):
                if len(message.data) == 1:
                    process.stdin.write_eof()
                else:
                    process.stdin.write(message.data[1:])
                    await process.stdin.drain()
            elif message.type is WSMsgType.TEXT:
                size = _untrusted_size(message.data)
                if size is None:
                    return
                process.change_terminal_size(*size)
            else:
                return


def _untrusted_size(text: str) -> tuple[int, int] | None:
    try:
        columns, rows = json.loads(text)["resize"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (isinstance(columns, int) and isinstance(rows, int)):
        return None
    return (columns, rows) if 0 < columns <= MAX_COLUMNS and 0 < rows <= MAX_ROWS else None
