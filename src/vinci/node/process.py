# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's process from its first to its last moment: lock, namespace, state, tasks."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

from vinci.images.build import ImageError, Images, find_images
from vinci.node.agent import Agent
from vinci.node.api import serve
from vinci.node.audit import Audit, Event, Severity
from vinci.node.network import ensure_namespace, enter_namespace, remove_namespace
from vinci.node.paths import NodePaths
from vinci.store.sqlite import Store
from vinci.vmm.accelerator import choose_accelerator, hide_kvm
from vinci.vmm.domain import Accelerator
from vinci.vmm.host import VmmError, ram_directory


def run_agent(state: Path, cache: Path, node: str, uri: str | None) -> int:
    """Run the agent until `down` or SIGTERM; its exit status (0, or 3 with a sentence on standard error)."""
    paths = NodePaths(state.resolve(), node)
    paths.root.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"an agent of node {node} runs already", file=sys.stderr)
            return 3
        try:
            images = find_images(cache)
            ensure_namespace(paths.namespace)
            enter_namespace(paths.namespace)
            accelerator = choose_accelerator(images, cache)
            if accelerator is Accelerator.TCG:
                hide_kvm(paths.root)
            empty = asyncio.run(_run(paths, cache, images, accelerator, uri))
        except (ImageError, VmmError, OSError, sqlite3.Error) as error:
            print(f"the agent of node {node} cannot run: {error}", file=sys.stderr)
            return 3
        if empty:
            remove_namespace(paths.namespace)
            shutil.rmtree(ram_directory(paths.libvirt), ignore_errors=True)  # libvirt leaves empty folders in it
    return 0


async def _run(paths: NodePaths, cache: Path, images: Images, accelerator: Accelerator, uri: str | None) -> bool:
    """The agent's life; True when it ended after a `down`, with nothing left running."""
    store = Store(paths.database)
    audit = Audit(paths.audit)
    agent = Agent(paths, store, audit, images, accelerator, uri, cache)
    agent.recover()
    audit.record(Event.AGENT, Severity.INFO, f"the agent of {paths.node} started ({accelerator.name.lower()})")
    # What a client sends is its own affair: a malformed request is answered with 400 and needs no traceback here.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, agent.finished.set)
    runner = await serve(agent, paths.api_socket)
    task = asyncio.create_task(agent.run())
    try:
        finished = asyncio.create_task(agent.finished.wait())
        await asyncio.wait({finished, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        # The namespace goes only when nothing is left in it: a `down` may have been killed half-way.
        return agent.in_force is None and agent.invalid is None and not await agent.running()
    finally:
        task.cancel()
        await runner.cleanup()
        paths.api_socket.unlink(missing_ok=True)
        store.close()
