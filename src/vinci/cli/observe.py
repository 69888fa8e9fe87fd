# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that look: status, verify, audit."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any, TextIO
from urllib.parse import quote

import typer

from vinci.cli.client import get, lines, node_paths
from vinci.cli.failure import Failure, Status, reason_of
from vinci.cli.long_work import Quiet, Telling, Verbose, follow, telling
from vinci.cli.names import vms
from vinci.cli.output import console, print_json, print_table, record_line, run
from vinci.node.printable import printable

Node = Annotated[str | None, typer.Option(help="the node's name, when several run here")]
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    app.command(epilog="Example: vinci status --json")(status)
    app.command(epilog="Example: vinci verify --junit verify.xml")(verify)
    app.command(epilog="Example: vinci audit --follow")(audit)
    app.command(name="console", epilog="Example: vinci console doctors-1")(console_of)


def status(node: Node = None, as_json: Json = False) -> None:
    """Communities, labels, VMs, shares and flows: what is declared and what runs."""
    run(_status(node, as_json))


async def _status(node: str | None, as_json: bool) -> int:
    report = await get(node_paths(node), "/v1/status")
    if as_json:
        print_json(report)
        return Status.DONE
    declaration = report["declaration"]
    if declaration is None:
        console.print(f"node {report['node']}: no declaration is in force", highlight=False)
        if report["invalid_declaration"]:
            console.print("the stored one cannot be used; what runs goes on. Mend it and run `vinci up FILE`:")
            console.print(report["invalid_declaration"], highlight=False, markup=False)
        print_table("Virtual machines", ("VM", "state"), [(vm["name"], vm["state"]) for vm in report["vms"]])
        return Status.DONE
    console.print(declaration["name"], style="bold", end=" ", highlight=False)
    console.print(
        f"version {declaration['version']} on node {report['node']} "
        f"({report['accelerator']}), from {declaration['path']}\n",
        highlight=False,
    )
    print_table(
        "Communities",
        ("community", "label", "network", "APP-VMs"),
        [(c["name"], c["label"], c["network"], ", ".join(c["app_vms"])) for c in report["communities"]],
    )
    print_table(
        "Virtual machines",
        ("VM", "kind", "community", "address", "state", "trust", "memory", "CPU time"),
        [_vm_row(vm) for vm in report["vms"]],
    )
    print_table(
        "Shares",
        ("share", "server", "label", "mount", "access"),
        [(s["name"], s["server"], s["label"], s["mount"], _access(s["access"])) for s in report["shares"]],
    )
    print_table(
        "Flows",
        ("from", "to", "service", "direction"),
        [(f["from"], f["to"], f["service"], f["direction"]) for f in report["flows"]],
    )
    print_table(
        "Logged in", ("user", "community", "VM"), [(s["user"], s["community"], s["vm"]) for s in report["sessions"]]
    )
    return Status.DONE


def _vm_row(vm: dict[str, Any]) -> tuple[object, ...]:
    cpu = "" if vm["cpu_seconds"] is None else f"{vm['cpu_seconds']} s"
    addresses = ", ".join(vm["addresses"])
    return vm["name"], vm["kind"], vm["community"], addresses, vm["state"], _trust(vm), f"{vm['memory_mib']} MiB", cpu


def _trust(vm: dict[str, Any]) -> str:
    """The verdict in a word or two; `vinci inspect` tells the rest."""
    trust = vm["trust"]
    if trust["response"] is not None:
        return f"{trust['verdict']} ({trust['response']})"
    return str(trust["verdict"]) if vm["cpu_seconds"] is not None else ""


def _access(access: dict[str, list[str]]) -> str:
    return "; ".join(f"{who}: {', '.join(operations)}" for who, operations in access.items())


def verify(
    node: Node = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
    junit: Annotated[Path | None, typer.Option(help="also write a JUnit report to this file")] = None,
) -> None:
    """Try from inside the VMs whether what is enforced is what was declared. Exit status 1 on a mismatch."""
    run(_verify(node, telling(quiet, verbose, as_json), as_json, junit))


async def _verify(node: str | None, how: Telling, as_json: bool, junit: Path | None) -> int:
    paths = node_paths(node)
    with contextlib.ExitStack() as files:
        # Opened before minutes of measuring; an old report is not taken for that of a measurement that failed.
        written = None if junit is None else files.enter_context(_opened(junit))
        report = await follow(paths, "/v1/verify", how)
        if "failed" in report:
            raise Failure("verify could not measure: " + "; ".join(report["failed"]), Status.FAILED)
        if written is not None:
            from vinci.cli.junit import junit_xml  # with an XML library

            written.write(junit_xml(report))
    if as_json:
        print_json(report)
    else:
        _print_verification(report)
    return Status.DONE if report["matches"] else Status.DOES_NOT_HOLD


def _opened(junit: Path) -> TextIO:
    try:
        return junit.open("w")
    except OSError as error:
        raise Failure(f"the JUnit report cannot be written: {reason_of(error)}", Status.FAILED) from None


def _print_verification(report: dict[str, Any]) -> None:
    print_table(
        "Files: what each user can do with each share (measured)",
        ("user", "VM", *report["shares"]),
        [(row["user"], row["vm"], *row["cells"]) for row in report["file_matrix"]],
    )
    print_table(
        "Network: what each VM reaches (measured)",
        ("from", *report["targets"]),
        [(row["vm"], *row["cells"]) for row in report["network_matrix"]],
    )
    print_table(
        "Virtual machines: is each still the one that was started? (looked at from outside)",
        ("VM", "trusted"),
        [(row["vm"], row["trusted"]) for row in report["trust"]],
    )
    for mismatch in report["mismatches"]:
        console.print(f"MISMATCH {mismatch['message']}", style="red", highlight=False, markup=False)
    console.print(
        f"{report['checked']} checks, {len(report['mismatches'])} mismatches"
        + ("" if report["matches"] else f"; evidence is kept in {report['bundle']}"),
        highlight=False,
    )


def audit(
    node: Node = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with new records as they come")] = False,
    since: Annotated[int, typer.Option(help="first record number to show")] = 0,
    as_json: Json = False,
) -> None:
    """Denied packets, file accesses and logins, and every change: what happened and why."""
    run(_audit(node, follow, since, as_json))


async def _audit(node: str | None, follow: bool, since: int, as_json: bool) -> int:
    path = f"/v1/audit?since={since}" + ("&follow=1" if follow else "")
    with contextlib.suppress(BrokenPipeError):
        async for line in lines(node_paths(node), "GET", path):
            if as_json:
                print(line, flush=True)
                continue
            console.print(record_line(json.loads(line)), highlight=False, markup=False, soft_wrap=True)
    return Status.DONE


def console_of(
    vm: Annotated[str, typer.Argument(help="a VM's name, see `vinci status`", show_default=False, autocompletion=vms)],
    node: Node = None,
    as_json: Json = False,
) -> None:
    """The last lines that a VM printed on its serial console."""
    run(_console(vm, node, as_json))


async def _console(vm: str, node: str | None, as_json: bool) -> int:
    answer = await get(node_paths(node), f"/v1/console?vm={quote(vm)}")
    if as_json:
        print_json(answer)
        return Status.DONE
    for line in str(answer["untrusted_text"]).splitlines():
        console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
    return Status.DONE
