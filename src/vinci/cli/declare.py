# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands about the declaration: check, plan, schema, up, down."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from vinci.cli.client import ensure_agent, get, lines, node_paths
from vinci.cli.failure import Failure, Status
from vinci.cli.output import Steps, console, print_json, run, steps
from vinci.images.build import ImageError, ensure_images
from vinci.model.load import Declaration, load, parse
from vinci.model.problems import DeclarationError, Problem
from vinci.model.schema import schema as model_schema
from vinci.node.paths import NodePaths, images_directory, state_directory
from vinci.plan.compile import compile_plan
from vinci.plan.difference import difference
from vinci.plan.types import Plan

File = Annotated[Path, typer.Argument(help="the infrastructure file, e.g. examples/hospital.yaml", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    app.command(epilog="Example: vinci check examples/hospital.yaml")(check)
    app.command(epilog="Example: vinci plan examples/hospital.yaml")(plan)
    app.command(epilog="Example: vinci schema > infrastructure.schema.json")(schema)
    app.command(epilog="Example: vinci up examples/hospital.yaml")(up)
    app.command(epilog="Example: vinci down")(down)


def _load(path: Path) -> Declaration:
    try:
        return load(path)
    except DeclarationError as error:
        raise Failure(f"{path} cannot be used:\n{error}", Status.USAGE) from None


def check(file: File, as_json: Json = False) -> None:
    """Validate and compile a file. Changes nothing, needs no root."""
    try:
        declaration = load(file)
    except DeclarationError as error:
        if as_json:
            print_json({"valid": False, "problems": [_problem(problem) for problem in error.problems]})
            raise typer.Exit(Status.USAGE) from None
        raise Failure(f"{file} cannot be used:\n{error}", Status.USAGE) from None
    compiled = compile_plan(declaration.infrastructure)
    vms = sum(len(node.vms) for node in compiled.nodes)
    if as_json:
        warnings = [_problem(problem) for problem in declaration.warnings]
        print_json({"valid": True, "problems": warnings, "communities": len(compiled.communities), "vms": vms})
        return
    for warning in declaration.warnings:
        console.print(str(warning), markup=False, highlight=False)
    console.print(
        f"{file} is valid: {len(compiled.communities)} communities, {len(declaration.infrastructure.users)} users, "
        f"{len(compiled.shares)} shares, {vms} VMs",
        highlight=False,
    )


def _problem(problem: Problem) -> dict[str, object]:
    return {key: getattr(problem, key) for key in ("file", "line", "column", "wrong", "right", "severity")}


def schema() -> None:
    """Print the JSON Schema of the infrastructure file, for editors."""
    print_json(model_schema())


def plan(
    file: File, node: Annotated[str | None, typer.Option(help="the node's name")] = None, as_json: Json = False
) -> None:
    """Show what `up` would change. Exit status 1 when there is something to change."""
    wanted = compile_plan(_load(file).infrastructure)
    current = asyncio.run(_plan_in_force(node))
    changes = difference(current, wanted)
    if as_json:
        print_json({"changes": changes})
    elif changes:
        for change in changes:
            console.print(change, markup=False, highlight=False)
    else:
        console.print("nothing to change")
    raise typer.Exit(Status.DOES_NOT_HOLD if changes else Status.DONE)


async def _plan_in_force(node: str | None) -> Plan | None:
    try:
        answer = await get(node_paths(node), "/v1/declaration")
    except Failure:
        return None
    return compile_plan(parse(str(answer["text"]).encode(), str(answer["path"])).infrastructure)


def up(file: File, quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False) -> None:
    """Make the infrastructure what the file says. A second run changes nothing and says so."""
    run(_up(file, quiet))


async def _up(file: Path, quiet: bool) -> int:
    declaration = _load(file)
    nodes = list(declaration.infrastructure.nodes)
    node = nodes[0]
    paths = NodePaths(state_directory(), node)
    with steps(quiet) as display:
        await asyncio.to_thread(_images, display)
        display.report("node agent", 0, 1)
        await ensure_agent(paths, declaration.infrastructure.nodes[node].uri)
        display.report("node agent", 1, 1)
        result = await _follow(paths, "/v1/up", display, data=file.read_bytes(), params={"path": str(file.resolve())})
    changes = result.get("changes", [])
    for change in changes:
        console.print(change, markup=False, highlight=False)
    if result.get("failed"):
        raise Failure("not everything is up:\n" + "\n".join(result["failed"]), Status.FAILED)
    name = declaration.infrastructure.name
    console.print(f"{name} is up" if changes else f"{name} is up: nothing changed", highlight=False)
    return Status.DONE


def _images(display: Steps) -> None:
    done = 0

    def report(_step: str) -> None:
        nonlocal done
        done += 1
        display.report("guest images", done, done + 1)

    try:
        ensure_images(images_directory(), report)
    except ImageError as error:
        raise Failure(f"the guest images cannot be built: {error}", Status.FAILED) from None
    display.report("guest images", 1, 1)


async def _follow(paths: NodePaths, path: str, display: Steps, **options: object) -> dict[str, list[str]]:
    """Show the progress of long work in the agent; its result."""
    async for line in lines(paths, "POST", path, **options):
        message = json.loads(line)
        if "progress" in message:
            display.report(message["progress"], message["done"], message["total"])
        elif "refused" in message:
            raise Failure(f"the agent refused the file:\n{message['refused']}", Status.USAGE)
        else:
            return dict(message)
    raise Failure(f"the agent broke off: see {paths.log}", Status.FAILED)


def down(node: Annotated[str | None, typer.Option(help="the node's name")] = None) -> None:
    """Stop every VM and remove the networks. Disks, passwords and keys stay."""
    run(_down(node))


async def _down(node: str | None) -> int:
    paths = node_paths(node)
    with steps() as display:
        result = await _follow(paths, "/v1/down", display)
    if result.get("failed"):
        raise Failure("not everything is down:\n" + "\n".join(result["failed"]), Status.FAILED)
    while paths.api_socket.exists():
        await asyncio.sleep(0.05)
    console.print("everything is down")
    return Status.DONE
