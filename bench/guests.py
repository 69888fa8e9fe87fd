# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest costs: processor time of a boot until SSH answers, of a connection and a command, and of being idle.

    .venv/bin/python bench/guests.py [BOOTS]

Raw QEMU, no agent, so that the images alone are measured. Processor time is QEMU's own, which other work on the
machine does not stretch; wall time is shown beside it.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/system"))
from fs_rig.rig import Machine, Rig, Wire
from processor import processor_seconds

from vinci.images.build import ensure_images
from vinci.node.paths import images_directory

IDLE_SECONDS = 20
CARDS = {
    "APP": (("02:56:0a:14:01:0a", "10.20.1.10/24"),),
    "FW": (("02:56:0a:14:01:01", "10.20.1.1/24"), ("02:56:0a:ff:00:01", "10.255.0.1/24")),
}
RULES = b'{"nftables": [{"flush": {"ruleset": null}}, {"add": {"table": {"family": "inet", "name": "t"}}}]}'


async def measure(rig: Rig, kind: str, boots: int) -> None:
    """Boot `boots` times, then measure the last VM."""
    walls, costs = [], []
    for number in range(boots):
        wires = [Wire(rig.folder / f"{kind}{number}{n}", "a", (card,)) for n, card in enumerate(CARDS[kind])]
        began = time.monotonic()
        machine = await rig.boot(f"{kind.lower()}{number}", kind, wires, 192, {"rules": RULES})
        walls.append(time.monotonic() - began)
        costs.append(processor_seconds(machine.process.pid))
        if number < boots - 1:
            await machine.kill()
    print(f"{kind}: boot to SSH {statistics.median(walls):.2f} s wall, {statistics.median(costs):.2f} s processor")
    for name, script in (("true", "true"), ("20 MB", "head -c 20000000 /dev/zero | cat >/dev/null")):
        took = [await _timed(machine, script) for _ in range(5)]
        print(f"{kind}: `{name}` over SSH {statistics.median(took) * 1000:.0f} ms")
    reconnects = []
    for _ in range(5):
        machine.channel.drop()
        await asyncio.sleep(1)
        began = time.monotonic()
        await machine.channel.open()
        reconnects.append(time.monotonic() - began)
    print(f"{kind}: reconnect {statistics.median(reconnects) * 1000:.0f} ms")
    for name in ("connected", "away"):
        if name == "away":
            machine.channel.drop()
        await asyncio.sleep(3)
        before = processor_seconds(machine.process.pid)
        await asyncio.sleep(IDLE_SECONDS)
        used = processor_seconds(machine.process.pid) - before
        print(f"{kind}: idle, agent {name}: {used / IDLE_SECONDS:.2%} of a core")
    await machine.kill()


async def _timed(machine: Machine, script: str) -> float:
    began = time.monotonic()
    await machine.ok(script)
    return time.monotonic() - began


async def main() -> None:
    """Measure an APP-VM and an FW-VM."""
    boots = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rig = Rig(ensure_images(images_directory()), Path(tempfile.mkdtemp(prefix="vinci-bench-")))
    try:
        for kind in CARDS:
            await measure(rig, kind, boots)
    finally:
        await rig.close()


if __name__ == "__main__":
    asyncio.run(main())
