# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that use what runs: login, exec, passwd."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Annotated, Any

import typer

from vinci.cli.client import node_paths, post
from vinci.cli.failure import Failure, Status
from vinci.cli.names import users, vms
from vinci.cli.output import console, error_console, print_json, run
from vinci.cli.terminal import converse, terminal_of

MAX_PASSWORD = 1024
Node = Annotated[str | None, typer.Option(help="the node's name, when several run here")]
Command = Annotated[list[str] | None, typer.Argument(help="a command and its words, after --", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    app.command(epilog="Example: vinci login sally        Example: echo PASSWORD | vinci login sally -- ls -l")(login)
    app.command(name="exec", epilog="Example: vinci exec doctors-1 -- ip address")(execute)
    app.command(epilog="Example: vinci passwd sally")(passwd)


def login(
    user: Annotated[
        str, typer.Argument(help="a user of the infrastructure file", show_default=False, autocompletion=users)
    ],
    command: Command = None,
    community: Annotated[str | None, typer.Option(help="the community to enter")] = None,
    node: Node = None,
) -> None:
    """Enter an APP-VM as a user: a shell, or one command. In scripts the password is the first line of input."""
    run(_login(user, command, community, node))


async def _login(user: str, command: list[str] | None, community: str | None, node: str | None) -> int:
    paths = node_paths(node)
    password = _read_password(f"Password of {user}: ")
    first: dict[str, Any] = {
        "user": user,
        "password": password,
        "community": community,
        "command": command or None,
        "terminal": terminal_of(True),
    }
    end = await converse(paths, "/v1/login", first, announce=True)
    while "choose" in end:
        if not sys.stdin.isatty():
            choices = ", ".join(end["choose"])
            raise Failure(f"{end['why']}: name one with --community ({choices})", Status.USAGE)
        first["community"] = typer.prompt(f"Community ({', '.join(end['choose'])})", err=True)
        end = await converse(paths, "/v1/login", first, announce=True)
    if end.get("denied"):
        raise Failure(f"login of {user} denied", Status.DOES_NOT_HOLD)
    return _exit_of(end)


def _read_password(prompt: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    # Byte by byte: what follows the first line belongs to the command in the VM.
    line = bytearray()
    while len(line) < MAX_PASSWORD and (byte := os.read(sys.stdin.fileno(), 1)) not in (b"", b"\n"):
        line += byte
    return line.decode(errors="replace").rstrip("\r")


def execute(
    vm: Annotated[str, typer.Argument(help="a VM's name, see `vinci status`", show_default=False, autocompletion=vms)],
    command: Command = None,
    node: Node = None,
) -> None:
    """Run a command as root in a VM (for the administrator)."""
    run(_execute(vm, command or ["/bin/sh"], node))


async def _execute(vm: str, command: list[str], node: str | None) -> int:
    first: dict[str, Any] = {"vm": vm, "command": command, "terminal": terminal_of(True)}
    return _exit_of(await converse(node_paths(node), "/v1/exec", first, announce=False))


def _exit_of(end: dict[str, Any]) -> int:
    if "exit" in end:
        return int(end["exit"])
    raise Failure(str(end.get("error", "the agent gave no reason")), Status.FAILED)


def passwd(
    user: Annotated[
        str, typer.Argument(help="a user of the infrastructure file", show_default=False, autocompletion=users)
    ],
    node: Node = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Set a user's password. In scripts it is the first line of standard input."""
    run(_passwd(user, node, as_json))


async def _passwd(user: str, node: str | None, as_json: bool) -> int:
    paths = node_paths(node)
    password = _read_password(f"New password of {user}: ")
    if sys.stdin.isatty() and getpass.getpass("Again: ") != password:
        raise Failure("the passwords differ: nothing changed", Status.USAGE)
    if len(password) < 8:
        raise Failure("a password has at least 8 characters: nothing changed", Status.USAGE)
    answer = await post(paths, "/v1/password", {"user": user, "password": password})
    if as_json:
        print_json(answer)
        return Status.DONE
    (error_console if not sys.stdout.isatty() else console).print(f"the password of {user} is set", highlight=False)
    return Status.DONE
