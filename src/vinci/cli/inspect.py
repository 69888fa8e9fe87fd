# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands about the trust in running VMs: inspect, release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vinci.cli.client import node_paths, post
from vinci.cli.failure import Failure, Status
from vinci.cli.names import vms
from vinci.cli.output import console, print_json, print_table, run

Node = Annotated[str | None, typer.Option(help="the node's name, when several run here")]
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    app.command(epilog="Example: vinci inspect doctors-1")(inspect)
    app.command(epilog="Example: vinci release doctors-1 --reason 'restarted after the phishing mail of 3 May'")(
        release
    )


def inspect(
    vm: Annotated[
        str | None, typer.Argument(help="a VM's name; without it, all that run", show_default=False, autocompletion=vms)
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="keep memory, registers and findings in this new directory", show_default=False)
    ] = None,
    pause: Annotated[
        bool, typer.Option("--pause", help="with --save: freeze the VM while its memory is copied")
    ] = False,
    node: Node = None,
    as_json: Json = False,
) -> None:
    """Look at a VM from outside now: what was checked, what was found. Exit status 1 unless it is trusted."""
    if save is not None and vm is None:
        raise Failure("name the VM whose memory is to be saved", Status.USAGE)
    if pause and save is None:
        raise Failure("--pause goes with --save DIR", Status.USAGE)
    run(_inspect(vm, node, as_json) if save is None or vm is None else _save(vm, node, save, pause, as_json))


async def _save(vm: str, node: str | None, directory: Path, pause: bool, as_json: bool) -> int:
    from vinci.cli.evidence import save as save_evidence  # with the VMM's side of the memory

    told = await save_evidence(node_paths(node), vm, directory, pause)
    if as_json:
        print_json([{"state": told["state"], "look": told["look"]}])
    else:
        _print_look(told["look"], told["state"])
        _say(f"evidence is in {directory}; whether it is untouched: docs/how-to/investigate.md")
    return Status.DONE if told["state"]["verdict"] == "trusted" else Status.DOES_NOT_HOLD


async def _inspect(vm: str | None, node: str | None, as_json: bool) -> int:
    looks = (await post(node_paths(node), "/v1/inspect", {"vm": vm}))["looks"]
    if as_json:
        print_json(looks)
    else:
        for entry in looks:
            _print_look(entry["look"], entry["state"])
    trusted = bool(looks) and all(entry["state"]["verdict"] == "trusted" for entry in looks)
    return Status.DONE if trusted else Status.DOES_NOT_HOLD


def _print_look(look: dict[str, Any], state: dict[str, Any]) -> None:
    print_table(
        f"{look['vm']}: {verdict_words(state)}",
        ("check", "examined", "time", "result"),
        [(row["check"], row["examined"], f"{row['milliseconds']:.1f} ms", _result(row)) for row in look["results"]],
    )
    if not look["results"]:
        _say(f"{look['vm']}: {verdict_words(state)}")
    for row in look["results"]:
        for finding in row["findings"]:
            colour = "red" if finding["severity"] == "tampered" else None
            where = f" ({finding['where']})" if finding["where"] else ""
            _say(f"{finding['severity']}: {row['check']}: {finding['what']}{where}", colour)
        if row["error"] is not None:
            _say(f"failed: {row['check']}: {row['error']}", "red")
    for finding in _found_before(look, state):
        where = f" ({finding['where']})" if finding["where"] else ""
        _say(f"found before, since it is compromised: {finding['check']}: {finding['what']}{where}", "red")
    if look["results"]:
        _say(f"{look['vm']} is {verdict_words(state)}; the look took {look['milliseconds']:.1f} ms")


def _found_before(look: dict[str, Any], state: dict[str, Any]) -> list[dict[str, Any]]:
    """What was found in the VM's incident and is not in this look."""
    now = [(row["check"], f["what"], f["where"]) for row in look["results"] for f in row["findings"]]
    now += [(row["check"], f"{row['check']} failed: {row['error']}", "") for row in look["results"] if row["error"]]
    return [f for f in state["incident_findings"] if (f["check"], f["what"], f["where"]) not in now]


def _result(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return "failed"
    return f"{len(row['findings'])} findings" if row["findings"] else "as it should be"


def verdict_words(trust: dict[str, Any]) -> str:
    """A VM's verdict with what has to be known beside it."""
    words = str(trust["verdict"])
    if trust["response"] is not None:
        words += f" (response: {trust['response']}"
        words += ", clean now: an administrator may release it)" if trust["releasable"] else ")"
    return f"{words}: {trust['reason']}" if trust["reason"] else words


def _say(text: str, style: str | None = None) -> None:
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def release(
    vm: Annotated[str, typer.Argument(help="a VM that was found compromised", show_default=False, autocompletion=vms)],
    reason: Annotated[str, typer.Option(help="why it may be trusted again; recorded", show_default=False)],
    node: Node = None,
    as_json: Json = False,
) -> None:
    """End a VM's quarantine, stop or alert. Only after a whole clean look, made now; recorded with your name."""
    run(_release(vm, reason, node, as_json))


async def _release(vm: str, reason: str, node: str | None, as_json: bool) -> int:
    if not reason.strip():
        raise Failure("say why with --reason: the audit has to tell", Status.USAGE)
    answer = await post(node_paths(node), "/v1/release", {"vm": vm, "reason": reason.strip()})
    if as_json:
        print_json({"vm": vm, **answer})
        return Status.DONE if answer["released"] else Status.DOES_NOT_HOLD
    if not answer["released"]:
        raise Failure(str(answer["reason"]), Status.DOES_NOT_HOLD)
    _say(f"VM {vm} is released")
    return Status.DONE
