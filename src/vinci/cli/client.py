# SPDX-License-Identifier: GPL-2.0-or-later
"""Talks to a node's agent over its Unix socket, and starts one where none runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vinci.cli.failure import Failure, NothingUp, Status, reason_of
from vinci.node.paths import NodePaths
from vinci.settings import NODE_NAME, read_settings

if TYPE_CHECKING:
    import aiohttp

START_SECONDS = 60.0
ANSWER_SECONDS = 60.0
_MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""mallopt(3): the agent gives large blocks back at once, above all those of a password's hash."""
BASE = "http://agent"
_NOT_FOR_YOU = "only root and members of the group vinci may use the agent"
_NOTHING = "nothing is up here: start an infrastructure with `vinci up FILE`"
Json = dict[str, Any]


def node_paths(node: str | None) -> NodePaths:
    """The node meant by `--node`, or this machine's by its settings, or the only one that has an agent.

    Raises:
        Failure: none runs, or several do and none was named.
        SettingsError: the settings cannot be used.
    """
    settings = read_settings()
    state, node = settings.state, node or settings.node
    if node is not None:
        if not NODE_NAME.fullmatch(node):
            raise Failure(f"{node!r} is no name of a node: letters, digits and -, a letter first", Status.USAGE)
        return NodePaths(state, node)
    nodes = {node: NodePaths(state, node) for node in _folders(state)}
    running = sorted(node for node, paths in nodes.items() if paths.api_socket.exists() or paths.may_run)
    if not running:
        raise next((_nobody_listens(paths) for paths in nodes.values() if _is_stored(paths)), NothingUp(_NOTHING))
    if len(running) > 1:
        raise Failure(f"several nodes run here ({', '.join(running)}): name one with --node", Status.USAGE)
    return NodePaths(state, running[0])


def _folders(state: Path) -> list[str]:
    try:
        return [path.name for path in state.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


@asynccontextmanager
async def connected(paths: NodePaths) -> AsyncIterator[aiohttp.ClientSession]:
    """A client session with the node's agent.

    Raises:
        NothingUp: no agent listens, and none has left anything.
        Failure: the agent does not answer, or broke off.
    """
    import aiohttp  # it takes its time to load, and where no agent runs nobody needs it

    connector = aiohttp.UnixConnector(path=str(paths.api_socket))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield session
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, PermissionError):
            raise Failure(_NOT_FOR_YOU, Status.FAILED) from None
        if isinstance(error.os_error, FileNotFoundError | ConnectionRefusedError):
            raise _nobody_listens(paths) from None
        raise Failure(f"the agent of node {paths.node} does not answer: see {paths.log}", Status.FAILED) from None
    except aiohttp.ClientError as error:
        raise Failure(f"the agent of node {paths.node} broke off ({error}): see {paths.log}", Status.FAILED) from None


def _nobody_listens(paths: NodePaths) -> Failure:
    """What is known of a node without an agent: only where nothing is left of one, nothing is up."""
    others = sorted(node for node in _folders(paths.state) if NodePaths(paths.state, node).database.exists())
    mend = f"see {paths.log}, or start it with `vinci up FILE`"
    if paths.may_run:
        return Failure(f"the agent of node {paths.node} has ended, what it started goes on: {mend}", Status.FAILED)
    if _is_stored(paths):
        return Failure(f"no agent of node {paths.node} runs, but a declaration is in force: {mend}", Status.FAILED)
    if others and not paths.root.exists():
        return Failure(f"there is no node {paths.node} in {paths.state}: there is {', '.join(others)}", Status.USAGE)
    return NothingUp(_NOTHING)


def _is_stored(paths: NodePaths) -> bool:
    """Whether a declaration is in force at a node by what is stored there, or that cannot be known."""
    if not paths.database.exists():
        return False
    from vinci.store.sqlite import Store

    try:
        with contextlib.closing(Store(paths.database)) as store:
            return store.declaration() is not None
    except PermissionError:
        return paths.api_socket.exists()  # an agent that ends takes its socket away; one that was killed did not
    except (OSError, sqlite3.Error):
        return True


@asynccontextmanager
async def _patience(paths: NodePaths) -> AsyncIterator[None]:
    """For questions that take the agent no work."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError:
        told = f"the agent of node {paths.node} does not answer within {ANSWER_SECONDS:.0f} s: see {paths.log}"
        raise Failure(told, Status.FAILED) from None


async def get(paths: NodePaths, path: str) -> Json:
    """A JSON answer of the agent. Raises Failure."""
    async with _patience(paths), connected(paths) as session, session.get(BASE + path) as response:
        return await _checked(response)


async def find(paths: NodePaths, path: str) -> Json | None:
    """A JSON answer of the agent, None when it has no such thing. Raises Failure."""
    async with _patience(paths), connected(paths) as session, session.get(BASE + path) as response:
        return None if response.status == HTTPStatus.NOT_FOUND else await _checked(response)


async def post(paths: NodePaths, path: str, body: Json) -> Json:
    """A JSON answer to a JSON request. Raises Failure."""
    async with connected(paths) as session, session.post(BASE + path, json=body) as response:
        return await _checked(response)


async def lines(paths: NodePaths, method: str, path: str, **options: Any) -> AsyncIterator[str]:
    """The lines of a long answer, as they come. Raises Failure."""
    async with connected(paths) as session, session.request(method, BASE + path, **options) as response:
        if response.status != 200:
            await _checked(response)
        buffer = b""
        async for chunk in response.content.iter_any():
            *complete, buffer = (buffer + chunk).split(b"\n")
            for line in complete:
                yield line.decode()


async def _checked(response: aiohttp.ClientResponse) -> Json:
    try:
        answer = await response.json(content_type=None)
    except ValueError:
        answer = None
    told: Json | None = answer if isinstance(answer, dict) else None
    if response.status != 200:
        raise Failure(str((told or {}).get("error", f"the agent answered {response.status}")), Status.FAILED)
    if told is None:
        raise Failure("the agent's answer is no JSON object: is it an agent of this version?", Status.FAILED)
    return told


async def ensure_agent(paths: NodePaths, uri: str | None, images: Path) -> bool:
    """Start the node's agent when none runs, and wait until it answers; True when it was started.

    Args:
        paths: the node's files.
        uri: libvirt's; None: the driver embedded in the agent.
        images: the cache of guest images.

    Raises:
        Failure: it did not come up.
    """
    if await _answers(paths):
        return False
    try:
        process = _start(paths, uri, images)
    except OSError as error:
        raise Failure(f"the agent of node {paths.node} cannot be started: {reason_of(error)}", Status.FAILED) from None
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if await _answers(paths):
            return True
        if process.poll() is not None:
            raise Failure(f"the agent did not start: {_last_line(paths.log)}", Status.FAILED)
        await asyncio.sleep(0.1)
    raise Failure(f"the agent did not answer within {START_SECONDS:.0f} s: see {paths.log}", Status.FAILED)


def _start(paths: NodePaths, uri: str | None, images: Path) -> subprocess.Popen[bytes]:
    paths.root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vinci.node", "--state", str(paths.state), "--node", paths.node]
    command += ["--images", str(images)]
    if uri is not None:
        command += ["--uri", uri]
    with paths.log.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={**os.environ, **_MEMORY},
        )


async def _answers(paths: NodePaths) -> bool:
    try:
        _reader, writer = await asyncio.open_unix_connection(str(paths.api_socket))
    except PermissionError:
        raise Failure(_NOT_FOR_YOU, Status.FAILED) from None
    except OSError:
        return False
    writer.close()
    return True


def _last_line(path: Path) -> str:
    lines_ = path.read_text(errors="replace").strip().splitlines()
    return lines_[-1] if lines_ else f"see {path}"
