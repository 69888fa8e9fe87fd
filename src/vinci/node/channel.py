# SPDX-License-Identifier: GPL-2.0-or-later
"""The A-VM's control channel into a guest: SSH (RFC 4251-4254) over the VM's virtio-serial port.

No network path leads from the node into a VM. The guest at the other end may be hostile: what it sends is bounded in
size and time, its host key is the one that the node made for it, and nothing of the node's is offered to it (no
agent forwarding, no X11, no port forwarding).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from vinci.node.printable import printable

HANDSHAKE_SECONDS = 20.0
ATTEMPT_SECONDS = 6.0
MAX_OUTPUT = 1024 * 1024
"""Bytes of a command's output that are kept; a guest that sends more is cut off."""
MAX_LINE = 16 * 1024
WINDOW = 256 * 1024
"""Bytes that a command may send before we took them (RFC 4254, 5.2)."""
KEEPALIVE_SECONDS, KEEPALIVES = 15, 3
"""A guest that leaves so many questions in a row unanswered is unreachable: it is noticed within a minute."""


class ChannelError(Exception):
    """The guest does not answer on its control channel, or not as it should."""


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a command in a guest. Output is what the guest claims, hence untrusted."""

    status: int
    untrusted_stdout: bytes
    untrusted_stderr: bytes
    truncated: bool

    @property
    def text(self) -> str:
        """Standard output as text, undecodable bytes replaced."""
        return self.untrusted_stdout.decode(errors="replace")

    @property
    def error_text(self) -> str:
        """The last line of standard error, shortened: for messages."""
        lines = self.untrusted_stderr.decode(errors="replace").strip().splitlines()
        return printable(lines[-1])[:300] if lines else ""


class Channel:
    """One VM's control channel: a single SSH connection, opened when first needed, shared by all sessions."""

    def __init__(self, vm: str, socket_path: Path, client_key: asyncssh.SSHKey, host_key: asyncssh.SSHKey) -> None:
        self.vm = vm
        self._path = socket_path
        self._client_key = client_key
        self._host_key = host_key
        self._root: asyncssh.SSHClientConnection | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def is_open(self) -> bool:
        """True while a connection to the guest stands."""
        return self._root is not None and not self._root.is_closed()

    async def open(self, seconds: float = HANDSHAKE_SECONDS) -> asyncssh.SSHClientConnection:
        """The root connection; made when there is none.

        Raises:
            ChannelError: the guest did not answer properly within `seconds`, or the channel was closed.
        """
        async with self._lock:
            if self._root is not None and not self._root.is_closed():
                return self._root
            deadline = asyncio.get_running_loop().time() + seconds
            reason = "it did not answer"
            while not self._closed and (left := deadline - asyncio.get_running_loop().time()) > 0:
                try:
                    async with asyncio.timeout(min(left, ATTEMPT_SECONDS)):
                        return self._keep(await self._connect())
                except (OSError, asyncssh.Error, TimeoutError) as error:
                    reason = printable(str(error)) or type(error).__name__
                await asyncio.sleep(0.1)
            if self._closed:
                reason = "the VM ended"
            raise ChannelError(f"VM {self.vm} does not answer on its control channel: {reason[:200]}")

    def _keep(self, connection: asyncssh.SSHClientConnection) -> asyncssh.SSHClientConnection:
        if self._closed:
            connection.abort()
            raise ConnectionAbortedError("the VM ended")
        self._root = connection
        return connection

    async def _connect(self) -> asyncssh.SSHClientConnection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, str(self._path))
            return await asyncssh.connect(
                host=self.vm,
                sock=sock,
                username="root",
                client_keys=[self._client_key],
                known_hosts=([self._host_key.convert_to_public()], [], []),
                config=None,
                agent_path=None,
                x509_trusted_certs=None,
                preferred_auth=["publickey"],
                connect_timeout=None,
                login_timeout=HANDSHAKE_SECONDS,
                keepalive_interval=KEEPALIVE_SECONDS,
                keepalive_count_max=KEEPALIVES,
                compression_algs=["none"],
            )
        except BaseException:
            sock.close()
            raise

    async def run(self, command: str, stdin: bytes = b"", seconds: float = 30.0) -> Result:
        """Run a shell command as root in the guest and wait for its end.

        Raises:
            ChannelError: no answer within `seconds`, or the connection broke.
        """
        connection = await self.open()
        try:
            async with asyncio.timeout(seconds):
                return await _run(connection, command, stdin)
        except TimeoutError:
            raise ChannelError(f"VM {self.vm}: `{command[:80]}` did not end within {seconds:.0f} s") from None
        except (OSError, asyncssh.Error) as error:
            raise ChannelError(f"VM {self.vm}: {printable(str(error))[:200]}") from error

    async def check(self, command: str, stdin: bytes = b"", seconds: float = 30.0) -> Result:
        """Like `run`, but a status other than 0 is an error too."""
        result = await self.run(command, stdin, seconds)
        if result.truncated:
            raise ChannelError(f"VM {self.vm}: `{command[:80]}` said more than {MAX_OUTPUT} bytes and was cut off")
        if result.status != 0:
            raise ChannelError(f"VM {self.vm}: `{command[:80]}` failed: {result.error_text or result.status}")
        return result

    async def lines(self, command: str) -> AsyncIterator[str]:
        """Lines that a long-lived command in the guest prints, each bounded; ends when the command or the VM ends."""
        connection = await self.open()
        with contextlib.suppress(OSError, asyncssh.Error):
            async with connection.create_process(command, encoding=None, stdin=asyncssh.DEVNULL) as process:
                buffer = b""
                while chunk := await process.stdout.read(MAX_LINE):
                    buffer += chunk
                    *complete, buffer = buffer.split(b"\n")
                    for line in complete:
                        yield line[:MAX_LINE].decode(errors="replace")
                    if len(buffer) > MAX_LINE:
                        buffer = b""

    async def process(self, command: str | None, **options: Any) -> asyncssh.SSHClientProcess[bytes]:
        """A process in the guest with its streams (`asyncssh.SSHClientConnection.create_process`).

        Raises:
            ChannelError: the guest refused.
        """
        connection = await self.open()
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                return await connection.create_process(command, encoding=None, **options)
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise ChannelError(f"VM {self.vm}: {printable(str(error))[:200]}") from error

    def drop(self) -> None:
        """Drop the connection; sessions in the guest end with it. The next use opens another one."""
        if self._root is not None:
            self._root.abort()
            self._root = None

    def close(self) -> None:
        """Drop the connection for good.

        Who waits for this channel to open waits no longer: the VM's next start has the same socket, which takes one
        connection, and that is the next channel's.
        """
        self._closed = True
        self.drop()


async def _run(connection: asyncssh.SSHClientConnection, command: str, stdin: bytes) -> Result:
    process = await connection.create_process(command, encoding=None, window=WINDOW)
    feeding = asyncio.ensure_future(_feed(process, stdin))
    try:
        out, err = await asyncio.gather(_bounded(process.stdout), _bounded(process.stderr))
        await process.wait_closed()
    except _TooMuchError:
        return Result(255, b"", b"", truncated=True)
    finally:
        feeding.cancel()
        process.channel.abort()  # a hostile guest need not answer a polite end
    status = process.exit_status
    return Result(255 if status is None else status, out, err, truncated=False)


async def _feed(process: asyncssh.SSHClientProcess[bytes], stdin: bytes) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        process.stdin.write(stdin)
        await process.stdin.drain()
        process.stdin.write_eof()


class _TooMuchError(Exception):
    """A stream went on beyond MAX_OUTPUT."""


async def _bounded(reader: asyncssh.SSHReader[bytes]) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := await reader.read(65536):
        size += len(chunk)
        if size > MAX_OUTPUT:
            raise _TooMuchError
        parts.append(chunk)
    return b"".join(parts)
