# SPDX-License-Identifier: GPL-2.0-or-later
"""What enforcement costs the file service: the FS-VM as it is, beside the same image with a plain NFS server.

Both serve one client VM the same requests, step by step in turn, and every other round the other way round. Two
figures for each kind of request, the median of the rounds' ratios: the rate that the client sees, which wants a quiet
machine, and the processor time that the server's QEMU takes, which under emulation follows the number of instructions.
Needs root; about half a minute a round.

    .venv/bin/python bench/file_service.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/system/fs_rig"))

import scenario  # noqa: E402
from asyncssh import SSHClientProcess  # noqa: E402
from processor import processor_seconds  # noqa: E402
from rig import Machine, Rig, Wire  # noqa: E402
from scenario import CLIENTS, Client  # noqa: E402

from vinci.images.build import ensure_images  # noqa: E402
from vinci.node.paths import images_directory  # noqa: E402

ENFORCED, PLAIN = CLIENTS[0], CLIENTS[2]
PROGRAM = """
import os, sys
top = sys.argv[1]
names = [f"{top}/bench.{n}" for n in range(250)]
def create():
    for name in names: os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
def stat():
    for _ in range(3):
        for name in names: os.stat(name)
def unlink():
    for name in names: os.unlink(name)
def write():
    f = os.open(f"{top}/data", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    for _ in range(24): os.write(f, b"x" * 1048576)
    os.fsync(f)
    os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)
def read():
    f = os.open(f"{top}/data", os.O_RDONLY)
    os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)
    while os.read(f, 1048576): pass
    os.close(f)
for line in sys.stdin:
    globals()[line.strip()]()
    print("done", flush=True)
"""
STEPS = ("create", "stat", "unlink", "write", "read")
PLAIN_SERVER = """set -e
. /run/vinci/env; . /usr/lib/vinci/network; network_hardening; network_up
mkfs.ext4 -q -I 256 -E lazy_itable_init=0,lazy_journal_init=0 /dev/vdb
mount /dev/vdb /srv
mkdir -m 777 /srv/prescriptions
echo '/srv *(rw,sync,fsid=0,no_subtree_check,sec=sys)' >/etc/exports
exportfs -ra
modprobe nfsd
mount -t nfsd nfsd /proc/fs/nfsd
echo 1048576 >/proc/fs/nfsd/max_block_size
echo 0 >/proc/sys/fs/leases-enable
mkdir -p /run/rpcbind
rpcbind
rpc.mountd --port 20048 --no-udp
rpc.nfsd --no-udp --tcp --port 2049 -V 3 -V 4 8
echo Y >/proc/fs/nfsd/v4_end_grace || true
"""


@dataclass(frozen=True)
class Cost:
    """What one step took: seconds at the client, seconds of the server's processor."""

    wall: float
    processor: float


@dataclass(frozen=True, eq=False)
class Side:
    """A server, and the client's program that asks it."""

    server: Machine
    process: SSHClientProcess[bytes]

    @classmethod
    async def start(cls, server: Machine, clients: Machine, client: Client, version: str) -> Side:
        """Start the client's program."""
        command = f"as {client.name} 20001 python3 /run/t/bench.py /m/{client.name}-{version}"
        return cls(server, await clients.channel.process(f". /run/t/client.sh; {command}"))

    async def step(self, step: str) -> Cost:
        """The cost of one step."""
        before, begun = processor_seconds(self.server.process.pid), time.monotonic()
        self.process.stdin.write(f"{step}\n".encode())
        if (await asyncio.wait_for(self.process.stdout.readline(), 120)).strip() != b"done":
            raise OSError(f"{step}: {(await self.process.stderr.read()).decode()}")
        return Cost(time.monotonic() - begun, processor_seconds(self.server.process.pid) - before)


async def start(rig: Rig) -> tuple[Machine, Machine, Machine]:
    """The enforcing server, the plain one, the client VM."""
    disks = []
    for name in ("a", "b"):
        disks.append(rig.folder / f"disk-{name}")
        with disks[-1].open("wb") as file:
            file.truncate(512 << 20)

    def wire(leg: str, end: str, mac: str, address: str) -> list[Wire]:
        return [Wire(rig.folder / leg, end, ((mac, f"{address}/24"),))]

    given = {"policy": scenario.policy(rig.folder), "shares": scenario.table()}
    enforced, plain, clients = await asyncio.gather(
        rig.boot("enforced", "FS", wire("a", "a", "02:56:00:00:00:01", ENFORCED.server), 320, given, disks[0]),
        rig.boot("plain", "FS", wire("b", "a", "02:56:00:00:00:02", PLAIN.server), 320, given, disks[1], selinux=False),
        rig.boot(
            "clients",
            "APP",
            wire("a", "b", ENFORCED.mac, ENFORCED.address) + wire("b", "b", PLAIN.mac, PLAIN.address),
            384,
        ),
    )
    await enforced.ok("/usr/lib/vinci/fs-grants", scenario.grants())
    await plain.ok(PLAIN_SERVER)
    await clients.put("/run/t/client.sh", (ROOT / "tests/system/fs_rig/client.sh").read_bytes())
    await clients.put("/run/t/bench.py", PROGRAM.encode())
    await clients.ok("[ -e /etc/protocols ] || printf 'tcp 6 TCP\\nudp 17 UDP\\n' >/etc/protocols")
    for card, client in (("eth0", ENFORCED), ("eth1", PLAIN)):
        await clients.ok(f". /run/t/client.sh; make_client {client.name} {card} {client.address}/24")
        for version in ("4.2", "3"):
            await clients.ok(
                f". /run/t/client.sh; mount_share {client.name} {client.server} {version} prescriptions actimeo=0 "
                f"/m/{client.name}-{version}"
            )
    return enforced, plain, clients


def report(version: str, step: str, pairs: list[tuple[Cost, Cost]]) -> None:
    """A row: the medians, and the median of the rounds' ratios with the middle half of them, by both measures."""
    row = f"NFSv{version:4}{step:8}"
    for measure in ("wall", "processor"):
        ours, theirs = ([getattr(pair[side], measure) for pair in pairs] for side in (0, 1))
        low, middle, high = statistics.quantiles([b / a for a, b in zip(ours, theirs, strict=True)], n=4)
        row += f"{statistics.median(theirs):6.2f} s {statistics.median(ours):6.2f} s "
        row += f"{middle:5.2f} ({low:.2f}-{high:.2f})  "
    print(row, flush=True)


async def main(rounds: int) -> None:
    """Measure in turn, print the ratio plain / enforced (1.0: enforcement costs nothing)."""
    images = ensure_images(images_directory())
    rig = Rig(images, Path(tempfile.mkdtemp(prefix="vinci-fs-bench-")))
    try:
        enforced, plain, clients = await start(rig)
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, TCG; {rounds} rounds in turn")
        print(f"{'1.00: enforcement costs nothing':19}  rate at the client{'':19}server's processor")
        for version in ("4.2", "3"):
            sides = (
                await Side.start(enforced, clients, ENFORCED, version),
                await Side.start(plain, clients, PLAIN, version),
            )
            pairs: dict[str, list[tuple[Cost, Cost]]] = {step: [] for step in STEPS}
            for number in range(rounds):
                for step in STEPS:
                    first, second = sides if number % 2 else sides[::-1]
                    costs = {first: await first.step(step), second: await second.step(step)}
                    pairs[step].append((costs[sides[0]], costs[sides[1]]))
            for side in sides:
                side.process.stdin.write_eof()
                await side.process.wait_closed()
            for step in STEPS:
                report(version, step, pairs[step])
    finally:
        await rig.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 12))
