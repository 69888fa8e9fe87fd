# SPDX-License-Identifier: GPL-2.0-or-later
"""What enforcement costs the file service: the FS-VM as it is, beside the same image with a plain NFS server.

Both serve one client VM in turn, the same requests, round by round. Two figures for each kind of request: the rate that
the client sees (median of the rounds; it wants a quiet machine), and the processor time that the server's QEMU takes
(the least of the rounds: under emulation that follows the number of instructions, and hardly the machine's other load).
Needs root; about five minutes.

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
from rig import Machine, Rig, Wire  # noqa: E402
from scenario import CLIENTS, Client  # noqa: E402

from vinci.images.build import ensure_images  # noqa: E402

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
    """What one step of a round took: seconds at the client, seconds of the server's processor."""

    wall: float
    processor: float


def busy(machine: Machine) -> float:
    """Seconds of processor time that the machine has taken so far."""
    fields = Path(f"/proc/{machine.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(server: Machine, clients: Machine, client: Client, version: str) -> dict[str, Cost]:
    """The cost of one round, by step."""
    command = f"as {client.name} 20001 python3 /run/t/bench.py /m/{client.name}-{version}"
    process = await clients.channel.process(f". /run/t/client.sh; {command}")
    used: dict[str, Cost] = {}
    for step in STEPS:
        before, begun = busy(server), time.monotonic()
        process.stdin.write(f"{step}\n".encode())
        if (await asyncio.wait_for(process.stdout.readline(), 120)).strip() != b"done":
            raise OSError(f"{client.name} {version} {step}: {(await process.stderr.read()).decode()}")
        used[step] = Cost(time.monotonic() - begun, busy(server) - before)
    process.stdin.write_eof()
    await process.wait_closed()
    return used


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


def report(version: str, step: str, ours: list[Cost], theirs: list[Cost]) -> None:
    """A row: plain and enforced, and the ratio of the enforcing server's rate to the plain one's, by both measures."""
    wall = [statistics.median(cost.wall for cost in costs) for costs in (theirs, ours)]
    processor = [min(cost.processor for cost in costs) for costs in (theirs, ours)]
    print(
        f"NFSv{version:4}{step:8}plain, enforced: "
        f"{wall[0]:6.2f} s {wall[1]:6.2f} s {wall[0] / wall[1]:5.2f}   "
        f"{processor[0]:6.2f} s {processor[1]:6.2f} s {processor[0] / processor[1]:5.2f}",
        flush=True,
    )


async def main(rounds: int) -> None:
    """Measure in turn, print the ratio plain / enforced (1.0: enforcement costs nothing)."""
    images = ensure_images(Path(os.environ.get("VINCI_IMAGES", "/var/cache/vinci/images")))
    rig = Rig(images, Path(tempfile.mkdtemp(prefix="vinci-fs-bench-")))
    try:
        enforced, plain, clients = await start(rig)
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, TCG; {rounds} rounds in turn")
        print("1.00: enforcement costs nothing     rate at the client      server's processor")
        for version in ("4.2", "3"):
            ours: list[dict[str, Cost]] = []
            theirs: list[dict[str, Cost]] = []
            for _ in range(rounds):
                ours.append(await measure(enforced, clients, ENFORCED, version))
                theirs.append(await measure(plain, clients, PLAIN, version))
            for step in STEPS:
                report(version, step, [one[step] for one in ours], [one[step] for one in theirs])
    finally:
        await rig.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 6))
