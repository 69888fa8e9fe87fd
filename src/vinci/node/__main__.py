# SPDX-License-Identifier: GPL-2.0-or-later
"""The node agent's process: `python -m vinci.node --state DIR --node NAME`, started by `vinci up`.

A supervisor keeps the agent running and is the reaper (PR_SET_CHILD_SUBREAPER) of the VMs' processes, which outlive
the agent. It ends when the agent ends by itself after `down`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
RESTART_SECONDS = 1.0
MAX_RESTARTS = 20


def main() -> int:
    """Supervise the agent until it ends by itself."""
    parser = argparse.ArgumentParser(prog="vinci-agent", description="the A-VM's agent of one node")
    parser.add_argument("--state", type=Path, required=True, help="the state directory, e.g. /var/lib/vinci")
    parser.add_argument("--node", required=True, help="the node's name in the infrastructure file, e.g. n1")
    parser.add_argument("--uri", default=None, help="libvirt URI; default: the driver embedded in the agent")
    arguments = parser.parse_args()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for _ in range(MAX_RESTARTS):
        status = _run_agent(arguments)
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
        time.sleep(RESTART_SECONDS)  # it was killed: the VMs go on, a new agent picks them up
    return 1


def _run_agent(arguments: argparse.Namespace) -> int:
    agent = os.fork()
    if agent == 0:
        from vinci.node.process import run_agent

        os._exit(run_agent(arguments.state, arguments.node, arguments.uri))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(agent, signal.SIGTERM))
    while True:
        pid, status = os.wait()  # also reaps VMs' processes that end
        if pid == agent:
            return status


if __name__ == "__main__":
    sys.exit(main())
