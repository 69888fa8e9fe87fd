# SPDX-License-Identifier: GPL-2.0-or-later
"""A dead FS-VM holds logouts up once, not once for each of them."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from vinci.model.load import parse
from vinci.node.channel import ChannelError
from vinci.node.grants import Grants
from vinci.node.guests import Guests
from vinci.plan.compile import compile_plan
from vinci.store.sqlite import Session

FILE = b"""
vinci: 1
name: small
labels: {levels: [low]}
communities: {ward: {label: {level: low}, network: 10.1.1.0/24}}
users: {ann: {uid: 20001, communities: {ward: {}}}}
file_servers: {files: {}}
shares: {notes: {server: files, label: {level: low}, mount: /shares/notes, access: {ward: [read, write]}}}
nodes: {n1: {}}
"""


class DeadServer:
    """A channel whose guest never answers, until it is told that the time is over."""

    def __init__(self) -> None:
        self.tables: list[bytes] = []
        self.over = asyncio.Event()

    async def check(self, _command: str, table: bytes) -> None:
        self.tables.append(table)
        await self.over.wait()
        raise ChannelError("VM files: did not end within 30 s")


def test_many_logouts_at_a_dead_server_are_two_attempts() -> None:
    plan = compile_plan(parse(FILE, "small.yaml").infrastructure).nodes[0]

    async def log_out() -> tuple[list[Any], DeadServer]:
        server, sessions = DeadServer(), [Session(str(n), "ann", "ward", "ward-1", 1.0, "login") for n in range(20)]
        grants = Grants(cast(Guests, SimpleNamespace(channel=lambda _name: server)), lambda: sessions)
        grants.use(plan)

        async def one() -> None:
            sessions.pop()
            await grants.deliver("files")

        tasks = [asyncio.ensure_future(one()) for _ in range(20)]
        while not server.tables:
            await asyncio.sleep(0)
        server.over.set()
        return await asyncio.gather(*tasks, return_exceptions=True), server

    results, server = asyncio.run(log_out())
    assert all(isinstance(result, ChannelError) for result in results), "each hears that it was not done"
    assert len(server.tables) <= 2
    assert b"10.1.1" not in server.tables[-1], "the last table is the one without anybody"
