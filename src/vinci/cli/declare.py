# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands about the declaration: check, plan, schema, up, down."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from vinci.cli.client import ensure_agent, node_paths
from vinci.cli.failure import Failure, NothingUp, Status
from vinci.cli.in_force import InForce, declaration_in_force, last_declaration, returning_shares
from vinci.cli.long_work import Display, Quiet, Telling, Verbose, display, follow, telling
from vinci.cli.output import console, error_console, print_json, run
from vinci.cli.proof import change_line, changes_json, print_proof, proof_json, prove, refusal, say
from vinci.images.build import ImageError, ensure_images
from vinci.model.infrastructure import Infrastructure
from vinci.model.load import MAX_BYTES, Declaration, load, parse
from vinci.model.problems import DeclarationError, Problem
from vinci.model.schema import schema as model_schema
from vinci.node.paths import NodePaths
from vinci.plan.compile import compile_plan
from vinci.plan.difference import declared_changes, difference
from vinci.plan.second_opinion import Disagreement
from vinci.plan.types import Plan
from vinci.policy.changes import ChangeKind, FlowChange, flow_changes
from vinci.settings import Key, Settings, read_settings

File = Annotated[Path, typer.Argument(help="the infrastructure file, e.g. examples/hospital.yaml", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    app.command(epilog="Example: vinci check examples/hospital.yaml")(check)
    app.command(epilog="Example: vinci plan examples/hospital.yaml")(plan)
    app.command(epilog="Example: vinci schema > infrastructure.schema.json")(schema)
    app.command(epilog="Example: vinci up examples/hospital.yaml")(up)
    app.command(epilog="Example: vinci down")(down)


def load_or_fail(path: Path) -> Declaration:
    """The declaration in a file. Raises Failure (usage) with all that is wrong with it."""
    return _parsed(_read(path), path)


def _read(path: Path) -> bytes:
    """The text of a file, read once: what is checked and confirmed is what is put in force."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Failure(f"{path} cannot be read: {reason}", Status.USAGE) from None


def _parsed(untrusted_text: bytes, path: Path) -> Declaration:
    try:
        return parse(untrusted_text, str(path))
    except DeclarationError as error:
        raise Failure(f"{path} cannot be used:\n{error}", Status.USAGE) from None


def check(
    file: File,
    as_json: Json = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="also read the compiled policies and packet rules back and compare")
    ] = False,
) -> None:
    """Validate, compile, prove the flows and test what the file expects. Changes nothing, needs no root.

    Exit status 1 when information gets down unexplained or an expectation fails, 2 when the file is broken.
    """
    try:
        declaration = load(file)
    except DeclarationError as error:
        if as_json:
            print_json({"valid": False, "problems": [_problem(problem) for problem in error.problems]})
            raise typer.Exit(Status.USAGE) from None
        raise Failure(f"{file} cannot be used:\n{error}", Status.USAGE) from None
    compiled = compile_plan(declaration.infrastructure)
    vms = sum(len(node.vms) for node in compiled.nodes)
    proof = prove(declaration)
    # What leaks is not what would be enforced: there, the labels hold.
    opinion = _second_opinion(declaration, compiled) if deep and proof.analysis.proved else None
    if as_json:
        warnings = [_problem(problem) for problem in declaration.warnings]
        counts: dict[str, object] = {"communities": len(compiled.communities), "vms": vms}
        if opinion is not None:
            counts["disagreements"] = [str(each) for each in opinion]
        print_json({"valid": True, "problems": warnings, **counts, **proof_json(proof)})
    else:
        for warning in declaration.warnings:
            say(str(warning))
        say(
            f"{file} is valid: {len(compiled.communities)} communities, {len(declaration.infrastructure.users)} users, "
            f"{len(compiled.shares)} shares, {vms} VMs"
        )
        print_proof(proof)
        if opinion is not None:
            _print_opinion(opinion)
        elif deep:
            say("not read back: what is not proved is not put in force")
    raise typer.Exit(Status.DONE if proof.holds and not opinion else Status.DOES_NOT_HOLD)


def _second_opinion(declaration: Declaration, compiled: Plan) -> list[Disagreement]:
    from vinci.cli.deep import second_opinion  # setools takes its time to load, and only this needs it

    return second_opinion(declaration.infrastructure, compiled)


def _print_opinion(opinion: list[Disagreement]) -> None:
    for each in opinion:
        say(f"DISAGREES: {each}", "red")
    if opinion:
        say("what would be enforced is not what the file says: this is a defect of Vinci, please report it")
    else:
        say("read back: the compiled policies and the packet rules say the same as the file")


def _problem(problem: Problem) -> dict[str, object]:
    return {key: getattr(problem, key) for key in ("file", "line", "column", "wrong", "right", "severity")}


def schema() -> None:
    """Print the JSON Schema of the infrastructure file, for editors."""
    print_json(model_schema())


def plan(
    file: File, node: Annotated[str | None, typer.Option(help="the node's name")] = None, as_json: Json = False
) -> None:
    """Show what `up` would change, as flows and as machines. Exit status 1 when there is something to change."""
    declaration = load_or_fail(file)
    current = asyncio.run(_in_force(node))
    old = current.declaration.infrastructure if current and current.declaration else None
    changes = difference(compile_plan(old) if old else None, compile_plan(declaration.infrastructure))
    changes += declared_changes(old, declaration.infrastructure, hashes=_sees_hashes()) if old else []
    flows = flow_changes(old, declaration.infrastructure)
    proof = prove(declaration)
    something = bool(changes or flows)
    if as_json:
        in_force = current.version if current else None
        print_json({"in_force": in_force, "changes": changes, "flows": changes_json(flows), **proof_json(proof)})
        raise typer.Exit(Status.DOES_NOT_HOLD if something else Status.DONE)
    if current is None:
        say("nothing is in force: all of this is new")
    elif current.declaration is None:
        say(f"version {current.version} in force no longer validates: everything is shown as new")
    for change in flows:
        say(change_line(change), "red" if change.kind is ChangeKind.OPENS_DOWNWARD else None)
    for line in changes:
        say(line)
    if not proof.holds:
        say(f"`up` would refuse this file:\n{refusal(proof)}", "red")
    if not something:
        say("nothing to change")
    raise typer.Exit(Status.DOES_NOT_HOLD if something else Status.DONE)


def _sees_hashes() -> bool:
    """The agent tells the hashes of passwords to root only."""
    return os.geteuid() == 0


async def _in_force(node: str | None) -> InForce | None:
    try:
        return await declaration_in_force(node_paths(node))
    except NothingUp:
        return None


def up(
    file: File,
    quiet: Quiet = False,
    verbose: Verbose = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="open new ways down without asking (for scripts)")] = False,
    as_json: Json = False,
) -> None:
    """Make the infrastructure what the file says. A second run changes nothing and says so.

    A file by which information gets down unexplained, or whose expectations fail, is refused (exit status 1). A change
    that opens a new way from a higher label to a lower one is shown, and has to be confirmed.
    """
    run(_up(file, telling(quiet, verbose, as_json), yes, as_json))


async def _up(file: Path, how: Telling, yes: bool, as_json: bool) -> int:
    text = _read(file)
    declaration = _parsed(text, file)
    proof = prove(declaration)
    if not proof.holds:
        raise Failure(f"{file} is refused, nothing was changed:\n{refusal(proof)}", Status.DOES_NOT_HOLD)
    settings = read_settings()
    node = _node(declaration.infrastructure, settings)
    paths = NodePaths(settings.state, node)
    with display(how) as told:
        await asyncio.to_thread(_images, settings.images, told)
        told.step("node agent", 0, 1)
        await ensure_agent(paths, declaration.infrastructure.nodes[node].uri or settings.uri, settings.images)
        told.step("node agent", 1, 1)
    last = await last_declaration(paths)
    returning = await returning_shares(paths, last, declaration.infrastructure)
    confirm_ways_down(last, declaration.infrastructure, yes, returning)
    result = await follow(paths, "/v1/up", how, data=text, params={"path": str(file.resolve())})
    changes = result.get("changes", [])
    name = declaration.infrastructure.name
    if as_json:
        print_json({"name": name, "node": node, "changes": changes, "failed": result.get("failed", [])})
    else:
        for change in changes:
            console.print(change, markup=False, highlight=False)
    if result.get("failed"):
        raise Failure("not everything is up:\n" + "\n".join(result["failed"]), Status.FAILED)
    if as_json:
        return Status.DONE
    console.print(f"{name} is up" if changes else f"{name} is up: nothing changed", highlight=False)
    return Status.DONE


def _node(wanted: Infrastructure, settings: Settings) -> str:
    """This machine's node: the one that the settings name, else the file's first."""
    if settings.node is not None and settings.node not in wanted.nodes:
        told = f"the file declares no node {settings.node}, which this machine is by its settings"
        raise Failure(f"{told}: declare it, or change `{Key.NODE}` ({Key.NODE.variable})", Status.USAGE)
    return settings.node or next(iter(wanted.nodes))


def confirm_ways_down(
    last: InForce | None, wanted: Infrastructure, yes: bool, returning: Iterable[FlowChange] = ()
) -> None:
    """Ask before a change opens a new way from a higher label to a lower or incomparable one.

    Where nothing ever was in force, there is nothing to compare with: the whole file is what was asked for. After a
    `down` there is, for the disks stay. `returning` are ways that lead out of declarations before the last one.

    Raises:
        Failure: somebody said no, or nobody can be asked.
    """
    if last is None:
        return
    old = last.declaration.infrastructure if last.declaration else None
    changes = (*flow_changes(old, wanted), *returning)
    opened = [change for change in changes if change.kind is ChangeKind.OPENS_DOWNWARD]
    if not opened:
        return
    shown = "\n".join(change_line(change) for change in opened)
    error_console.print(f"this change opens new ways down:\n{shown}", markup=False, highlight=False, soft_wrap=True)
    if yes:
        return
    if not sys.stdin.isatty():
        hint = "nobody can be asked here: repeat with --yes if they are meant"
        raise Failure(f"nothing was changed; {hint}", Status.DOES_NOT_HOLD)
    if not typer.confirm("Open them?", err=True):
        raise Failure("nothing was changed", Status.DOES_NOT_HOLD)


def _images(cache: Path, told: Display) -> None:
    done = 0

    def report(step: str) -> None:
        nonlocal done
        done += 1
        told.step("guest images", done, done + 1, step)

    try:
        ensure_images(cache, report)
    except ImageError as error:
        raise Failure(f"the guest images cannot be built: {error}", Status.FAILED) from None
    told.step("guest images", 1, 1)


def down(
    node: Annotated[str | None, typer.Option(help="the node's name")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Stop every VM and remove the networks. Disks, passwords and keys stay. Where nothing is up, nothing is done."""
    run(_down(node, telling(quiet, verbose, as_json), as_json))


async def _down(node: str | None, how: Telling, as_json: bool) -> int:
    try:
        paths = node_paths(node)
        result = await follow(paths, "/v1/down", how)
    except NothingUp:
        if as_json:
            print_json({"node": node, "changes": [], "failed": []})
        else:
            console.print("nothing is up here")
        return Status.DONE
    if as_json:
        print_json({"node": paths.node, "changes": result.get("changes", []), "failed": result.get("failed", [])})
    if result.get("failed"):
        raise Failure("not everything is down:\n" + "\n".join(result["failed"]), Status.FAILED)
    await _agent_ended(paths)
    if not as_json:
        console.print("everything is down")
    return Status.DONE


async def _agent_ended(paths: NodePaths) -> None:
    """Wait until the agent has taken the network away, too, which it does last: then it lets go of its lock."""
    while True:
        try:
            with paths.lock.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
        except FileNotFoundError:
            return  # nobody holds what is not there
        except BlockingIOError:
            await asyncio.sleep(0.05)
