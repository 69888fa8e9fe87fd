# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of VMs and users for the shell's completion, from the agent that runs; none where none may be asked."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from vinci.cli.client import find, node_paths
from vinci.cli.failure import Failure
from vinci.node.paths import NodePaths
from vinci.settings import SettingsError

ANSWER_SECONDS = 2.0


def vms(context: typer.Context, incomplete: str) -> list[str]:
    """VMs whose names begin so."""
    return _beginning(incomplete, [str(vm["name"]) for vm in _answer(context, "/v1/status").get("vms", [])])


def users(context: typer.Context, incomplete: str) -> list[str]:
    """Users whose names begin so."""
    # Only the text is read, not the model: nobody waits half a second for a name.
    from vinci.model.problems import DeclarationError
    from vinci.model.source import read_yaml

    declaration = _answer(context, "/v1/declaration")
    try:
        known = read_yaml("", str(declaration.get("text", "")).encode()).data.get("users")
    except DeclarationError:
        return []
    return _beginning(incomplete, [str(name) for name in known] if isinstance(known, dict) else [])


def _beginning(incomplete: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _answer(context: typer.Context, path: str) -> dict[str, Any]:
    try:
        return asyncio.run(_found(node_paths(context.params.get("node")), path))
    except (Failure, SettingsError, OSError):
        return {}  # a shell's prompt is no place for complaints, nor for waiting


async def _found(paths: NodePaths, path: str) -> dict[str, Any]:
    async with asyncio.timeout(ANSWER_SECONDS):
        return await find(paths, path) or {}
