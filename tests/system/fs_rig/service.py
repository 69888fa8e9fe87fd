# SPDX-License-Identifier: GPL-2.0-or-later
"""The running file service as the tests see it: both machines, and what is asked of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import scenario
from rig import Machine, Rig, Wire
from scenario import BY_NAME, CLIENTS, SESSIONS, SHARES, Session

from vinci.plan.types import PlannedShare

HERE = Path(__file__).parent

# Reads what is there and waits for nothing: a request's denial is there before its reply leaves.
EVENTS = b"""
import os, select
ring = os.open("/proc/vinci/events", os.O_RDONLY | os.O_NONBLOCK)
while select.select([ring], [], [], 0)[0]:
    os.write(1, os.read(ring, 65536))
"""


def may_mount(share: PlannedShare, client: str) -> bool:
    """Whether the client's community has a grant on it, and labels that let it be seen at all."""
    return share.name != "sideways" and BY_NAME[client].community in {grant.community for grant in share.grants}


class Service:
    """The two machines, and what the tests ask of them."""

    def __init__(self, fs: Machine, clients: Machine, rig: Rig) -> None:
        self.fs, self.clients, self.rig = fs, clients, rig

    async def cut_power(self) -> None:
        """Of the FS-VM; returns when it serves the same users again."""
        await self.fs.kill()
        self.fs = await self.rig.start("fs", self.fs.command)
        assert "ok" in await self.fs.ok("cat /run/vinci/status")
        await self.grant()

    async def client(self, script: str, seconds: float = 120) -> tuple[int, str]:
        """Run a script with client.sh's functions in the client VM: status and output."""
        result = await self.clients.sh(f". /run/t/client.sh; {script}", seconds=seconds)
        return result.status, result.text.strip()

    async def client_ok(self, script: str, seconds: float = 120) -> str:
        """The same, for what has to succeed."""
        return (await self.clients.ok(f". /run/t/client.sh; {script}", seconds=seconds)).strip()

    async def grant(self, sessions: tuple[Session, ...] = SESSIONS) -> None:
        """Log exactly these users in."""
        await self.fs.ok("/usr/lib/vinci/fs-grants", scenario.grants(sessions))

    async def events(self) -> list[dict[str, Any]]:
        """The denied requests since the last look."""
        text = await self.fs.ok("python3 -ISB -", EVENTS)
        return [json.loads(line) for line in text.splitlines()]

    async def mount(self, version: str, options: str = "sync") -> str:
        """Mount all shares that each client may mount; the directory above them."""
        top = f"/m/{version}-{options}"
        status, _ = await self.client(f"grep -q ' {top}/' /proc/mounts")
        if status != 0:
            for client in CLIENTS:
                mine = [share.name for share in SHARES if may_mount(share, client.name)]
                await self.client_ok(
                    f"for share in {' '.join(mine)}; do mount_share {client.name} {client.server} {version} $share "
                    f"{options} {top}/{client.name}/$share || exit 1; done"
                )
        return top

    async def raw(self, client: str, uid: int, *words: str) -> str:
        """What a hostile NFSv3 client in that client's network gets."""
        return await self._hostile("raw_nfs.py", client, uid, words)

    async def raw4(self, client: str, uid: int, *words: str) -> str:
        """What a hostile NFSv4.1 client gets."""
        return await self._hostile("raw_nfs4.py", client, uid, words)

    async def _hostile(self, program: str, client: str, uid: int, words: tuple[str, ...]) -> str:
        server = BY_NAME[client].server
        return await self.client_ok(
            f"nsenter --net=/run/netns/{client} python3 /run/t/{program} {server} {uid} {' '.join(words)}"
        )


async def start(folder: Path, rig: Rig) -> Service:
    """Boot both machines, make the clients, log everybody in, put a file and a program in each tree."""
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(512 << 20)
    legs = {"eth0": "a", "eth2": "b", "eth3": "c"}
    server = [
        Wire(folder / legs[c.card], "a", ((f"02:56:00:00:00:0{i}", f"{c.server}/24"),))
        for i, c in enumerate(c for c in CLIENTS if c.card in legs)
    ]
    by_leg = {
        s: tuple((c.mac, f"{c.address}/24") for c in CLIENTS if c.server == s)
        for s in dict.fromkeys(c.server for c in CLIENTS)
    }
    client = [Wire(folder / leg, "b", cards) for leg, cards in zip(legs.values(), by_leg.values(), strict=True)]
    given = {"policy": scenario.policy(folder), "shares": scenario.table()}
    fs, clients = await asyncio.gather(
        rig.boot("fs", "FS", server, 320, given, disk), rig.boot("clients", "APP", client, 384)
    )
    for name in ("client.sh", "raw_nfs.py", "raw_nfs4.py", "hold.py"):
        await clients.put(f"/run/t/{name}", (HERE / name).read_bytes())
    # mount.nfs looks the protocol up by name
    await clients.ok("[ -e /etc/protocols ] || printf 'tcp 6 TCP\\nudp 17 UDP\\n' >/etc/protocols")
    await clients.ok(
        "; ".join([". /run/t/client.sh"] + [f"make_client {c.name} {c.card} {c.address}/24" for c in CLIENTS])
    )
    assert "ok" in await fs.ok("cat /run/vinci/status")
    service = Service(fs, clients, rig)
    await service.grant()
    await fill(service)
    return service


async def fill(service: Service) -> None:
    """A file and a program in each tree, open to all by mode; a secret in anna's home, made with umask 0."""
    await service.fs.ok(
        "printf %s vinci_u:vinci_system_r:vinci_manage_t:s0 >/proc/self/attr/current; cd /srv || exit; "
        "for share in [a-z]*; do case $share in homes* | lost*) continue ;; esac; "
        "echo seed >>$share/file; printf '#!/bin/sh\\nexit 0\\n' >>$share/program; "
        "chmod 0777 $share/file $share/program || exit; done"
    )
    top = await service.mount("4.2")
    await service.client_ok(f"as d1 20001 sh -c 'umask 0; echo secret >{top}/d1/homes-doctors/anna/secret'")


class Running:
    """One event loop for a module's tests, since the machines' channels belong to it."""

    def __init__(self, runner: asyncio.Runner, service: Service) -> None:
        self._runner = runner
        self.service = service

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)
