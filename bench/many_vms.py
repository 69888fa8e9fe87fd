# SPDX-License-Identifier: GPL-2.0-or-later
"""What it takes to look at 50 VMs once a second: boots them, and measures agent and checker while nothing happens.

Three communities with 15 APP-VMs each, their FW-VMs, and two FS-VMs, all with the default sizes. Needs root, about
12 GB of free memory, and some minutes to boot.

    .venv/bin/python bench/many_vms.py [SECONDS]
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests/system")]

from installation import Installation  # noqa: E402
from processes import agents, pids  # noqa: E402
from processor import processor_seconds  # noqa: E402
from watching import trust_of, wait_for  # noqa: E402

COMMUNITIES, APP_VMS, STEP = 3, 15, 5
"""APP-VMs are started some at a time: emulated, fifty that boot at once take longer than a boot may."""


def declaration(app_vms: int) -> str:
    """The infrastructure file, with so many APP-VMs in each community."""
    names = [f"c{number}" for number in range(COMMUNITIES)]
    communities = "\n".join(
        f"  {name}: {{label: {{level: plain}}, network: 10.90.{number}.0/24, app_vms: {{count: {app_vms}}}}}"
        for number, name in enumerate(names)
    )
    access = ", ".join(f"{name}: [read, write]" for name in names)
    shares = "\n".join(
        f"  s{number}: {{server: f{number}, label: {{level: plain}}, mount: /shares/s{number}, access: {{{access}}}}}"
        for number in range(2)
    )
    return f"""vinci: 1
name: many
labels: {{levels: [plain]}}
communities:
{communities}
users:
  sam: {{uid: 20001, communities: {{{", ".join(f"{name}: {{}}" for name in names)}}}}}
file_servers: {{f0: {{}}, f1: {{}}}}
shares:
{shares}
nodes: {{n1: {{}}}}
"""


def main() -> None:
    """Boot, measure, print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    state = Path(tempfile.mkdtemp(prefix="vinci-b-", dir="/tmp"))
    state.chmod(0o711)
    installation = Installation(state, state / "many.yaml")
    try:
        began = time.monotonic()
        for app_vms in range(STEP, APP_VMS + 1, STEP):
            installation.file.write_text(declaration(app_vms))
            installation.check("up", "--yes", str(installation.file), seconds=900)
        wait_for(installation, lambda trust: all(t["verdict"] == "trusted" for t in trust.values()), seconds=300)
        print(f"{platform.machine()}, {os.cpu_count()} cores, QEMU/TCG, load {os.getloadavg()[0]:.1f}")
        print(f"{len(trust_of(installation))} VMs up and trusted after {time.monotonic() - began:.0f} s")
        measure(installation, seconds)
    finally:
        if installation.vinci("down").status == 0:
            shutil.rmtree(state, ignore_errors=True)


def measure(installation: Installation, seconds: float) -> None:
    """What the two processes use of a core, and how old the looks are then."""
    watched = agents(installation)[1], *pids("vinci.introspect.checker", f"{installation.state}/")
    before = [processor_seconds(pid) for pid in watched]
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    agent, checker = ((processor_seconds(pid) - b) / took for pid, b in zip(watched, before, strict=True))
    trust = trust_of(installation)
    ages = [each["checked_seconds_ago"] for each in trust.values()]
    print(f"agent {agent:.1%} of a core, checker {checker:.1%}: {agent + checker:.1%} (wanted: 100 %)")
    print(f"a look is {statistics.median(ages):.2f} s old in the median, {max(ages):.2f} s at most")
    print(f"trusted: {sum(each['verdict'] == 'trusted' for each in trust.values())} of {len(trust)}")


if __name__ == "__main__":
    main()
