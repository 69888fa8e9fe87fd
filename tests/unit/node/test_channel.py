# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's control channel, without a VM behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh
import pytest

from vinci.node.channel import Channel, ChannelError


def test_a_closed_channel_leaves_the_socket_to_the_next_start(tmp_path: Path) -> None:
    """The VM's next start listens at the same path, for one connection only: it is the next channel's."""
    taken = 0

    async def scenario() -> None:
        def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal taken
            taken += 1
            writer.close()

        path, key = tmp_path / "vm.ssh", asyncssh.generate_private_key("ssh-ed25519")
        channel = Channel("vm", path, key, key)
        waiting = asyncio.create_task(channel.open(60))
        await asyncio.sleep(0)
        channel.close()
        async with await asyncio.start_unix_server(accept, path):
            with pytest.raises(ChannelError, match="the VM ended"):
                await asyncio.wait_for(waiting, 30)
            with pytest.raises(ChannelError, match="the VM ended"):
                await channel.run("true")

    asyncio.run(scenario())
    assert taken == 0
