# SPDX-License-Identifier: GPL-2.0-or-later
"""The last words of each VM's serial console, for the administrator: bounded, and never acted upon."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

KEPT_BYTES = 64 * 1024
RETRY_SECONDS = 1.0
CHUNK = 4096


class Consoles:
    """Listens to the console sockets of a node's VMs."""

    def __init__(self, socket_of: Callable[[str], Path]) -> None:
        """`socket_of` tells the console socket of a VM."""
        self._socket_of = socket_of
        self._kept: dict[str, deque[bytes]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def listen(self, vm: str) -> None:
        """Keep what the VM prints from now on. Repeated calls do nothing while the VM's socket is open."""
        task = self._tasks.get(vm)
        if task is None or task.done():
            self._tasks[vm] = asyncio.create_task(self._listen(vm))

    def untrusted_text(self, vm: str) -> str:
        """The VM's last output, as it came."""
        return b"".join(self._kept.get(vm, ())).decode(errors="replace")

    async def _listen(self, vm: str) -> None:
        kept = self._kept.setdefault(vm, deque(maxlen=KEPT_BYTES // CHUNK))
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(str(self._socket_of(vm)))
            try:
                while chunk := await reader.read(CHUNK):
                    if kept and len(kept[-1]) + len(chunk) <= CHUNK:
                        kept[-1] += chunk  # a console prints in small pieces
                    else:
                        kept.append(chunk)
            finally:
                writer.close()
