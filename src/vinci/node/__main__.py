# SPDX-License-Identifier: GPL-2.0-or-later
"""The node agent's process: `python -m vinci.node`, started by `vinci up` or systemd.

A supervisor keeps the agent running and is the reaper (PR_SET_CHILD_SUBREAPER) of the VMs' processes, which outlive
the agent. It ends when the agent ends by itself after `down`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from vinci.settings import SettingsError, read_settings

PR_SET_CHILD_SUBREAPER = 36
RESTART_SECONDS = 1.0
MAX_RESTART_SECONDS = 60.0
LIVED_SECONDS = 60.0
"""An agent that lived this long had come up: the next failure is the first of its kind again."""
CRASHED = 1
USAGE = 2
DEFAULT_NODE = "n1"
"""As in the examples."""


def main() -> int:
    """Supervise the agent until it ends by itself."""
    try:
        settings = read_settings()  # once: whatever becomes of the configuration, an agent can be started again
    except SettingsError as error:
        print(error, file=sys.stderr)
        return USAGE
    parser = argparse.ArgumentParser(prog="vinci-agent", description="the A-VM's agent of one node")
    parser.add_argument("--state", type=Path, default=settings.state, help="the state directory, e.g. /var/lib/vinci")
    parser.add_argument("--images", type=Path, default=settings.images, help="the cache of guest images")
    parser.add_argument(
        "--node", default=settings.node or DEFAULT_NODE, help="the node's name in the infrastructure file, e.g. n1"
    )
    parser.add_argument("--uri", default=settings.uri, help="libvirt URI; default: the driver embedded in the agent")
    arguments = parser.parse_args()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    failures, was_up = 0, False
    while True:
        started = time.monotonic()
        status = _run_agent(arguments)
        lived = time.monotonic() - started
        was_up = was_up or os.WIFSIGNALED(status) or lived >= LIVED_SECONDS
        failures = 1 if lived >= LIVED_SECONDS else failures + 1
        pause = seconds_to_restart(status, failures, was_up=was_up)
        if pause is None:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)  # the VMs go on, a new agent picks them up


def seconds_to_restart(status: int, failures: int, *, was_up: bool) -> float | None:
    """How long to wait before the agent is started again; None when it ended as it should, or cannot even start.

    Args:
        status: how it ended (wait(2)).
        failures: how many times in a row it ended before it had lived a minute, this one included.
        was_up: an agent of this supervisor ran before. Its VMs run: they are never left alone.
    """
    if status == 0 or not was_up:
        return None
    return min(MAX_RESTART_SECONDS, RESTART_SECONDS * 2.0 ** min(failures - 1, 10))


def _run_agent(arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    agent = os.fork()
    if agent == 0:
        try:
            from vinci.node.process import run_agent

            os._exit(run_agent(arguments.state, arguments.images, arguments.node, arguments.uri))
        except BaseException:
            traceback.print_exc()
            os._exit(CRASHED)
    signal.signal(signal.SIGTERM, lambda *_: _terminate(agent))
    while True:
        pid, status = os.wait()  # also reaps VMs' processes that end
        if pid == agent:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            return status


def _terminate(agent: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(agent, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
