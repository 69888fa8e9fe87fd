# SPDX-License-Identifier: GPL-2.0-or-later
"""`vinci inspect VM --save DIR`: memory, registers and findings of a VM, with a manifest that the node signed."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from pathlib import Path
from typing import Any

import aiohttp

from vinci.cli.attachment import images_of, open_memory
from vinci.cli.client import BASE, connected
from vinci.cli.failure import Failure, Status
from vinci.node.paths import NodePaths

_CHUNK = 1024 * 1024
_ZERO = bytes(_CHUNK)
MANIFEST = "MANIFEST"
ANSWER_SECONDS = 120.0


async def save(paths: NodePaths, vm: str, directory: Path, pause: bool) -> dict[str, Any]:
    """Write the evidence into a new directory; what the agent told of the VM.

    Raises:
        Failure: not root, the directory holds something already, or a step failed; what was written stays.
    """
    directory = directory.resolve()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise Failure(f"{directory} is not empty: name a new directory", Status.USAGE)
        previous = os.umask(0o077)
        try:
            return await _save(paths, vm, directory, pause)
        finally:
            os.umask(previous)
    except OSError as error:
        raise Failure(f"the evidence cannot be written to {directory}: {error}", Status.FAILED) from None


async def _save(paths: NodePaths, vm: str, directory: Path, pause: bool) -> dict[str, Any]:
    async with connected(paths) as session, session.ws_connect(BASE + "/v1/evidence") as conversation:
        await conversation.send_json({"vm": vm, "pause": pause})
        told = await _answer(conversation)
        attachment = told["attachment"]
        with open_memory(attachment) as ram:
            digests = {"memory.raw": _copy_memory(ram, directory / "memory.raw")}
        packages = images_of(attachment) / "packages.json"
        shutil.copyfile(packages, directory / packages.name)
        _write(directory / "registers.txt", attachment["registers"])
        _write(directory / "memory-map.txt", attachment["mtree"])
        look = {**told["look"], "incident_findings": told["state"]["incident_findings"]}
        _write(directory / "look.json", json.dumps(look, indent=1))
        about = {key: told[key] for key in ("node", "time", "paused", "state", "images")}
        about |= {key: attachment[key] for key in ("vm", "kind", "pid", "started", "memory_mib")}
        _write(directory / "about.json", json.dumps(about, indent=1))
        for name in sorted(path.name for path in directory.iterdir()):
            digests.setdefault(name, hashlib.sha256((directory / name).read_bytes()).hexdigest())
        manifest = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        _write(directory / MANIFEST, manifest)
        await conversation.send_json({"manifest": manifest})
        signed = await _answer(conversation)
    _write(directory / f"{MANIFEST}.sig", signed["signature"])
    _write(directory / "allowed_signers", f'{told["node"]} namespaces="{signed["namespace"]}" {signed["key"]}\n')
    return told


async def _answer(conversation: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = await conversation.receive_json(timeout=ANSWER_SECONDS)
    except (TypeError, ValueError, TimeoutError):
        raise Failure("the agent broke off: see its log", Status.FAILED) from None
    if "error" in answer:
        raise Failure(str(answer["error"]), Status.FAILED)
    return answer


def _copy_memory(ram: mmap.mmap, target: Path) -> str:
    """Copy, leaving holes where there are zeros; the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with target.open("xb") as file:
        for start in range(0, len(ram), _CHUNK):
            chunk = ram[start : start + _CHUNK]
            digest.update(chunk)
            if chunk == _ZERO[: len(chunk)]:
                file.seek(len(chunk), os.SEEK_CUR)
            else:
                file.write(chunk)
        file.truncate(len(ram))
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
