# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual page vinci(1), from the commands' own help: `make man` writes build/vinci.1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer

from vinci.cli.main import EPILOG, app
from vinci.cli.rooms import COMMANDS, load

FILES = (
    ("/etc/vinci/conf.d/*.toml", "settings (state, images, node, uri); the environment's VINCI_STATE … count more"),
    ("/var/lib/vinci", "state"),
    ("/var/cache/vinci/images", "guest images"),
)


def page() -> str:
    """The page in man(7)'s language."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    about = str(app.info.help)
    yield '.TH VINCI 1 "" "vinci" "User Commands"'
    yield from (".SH NAME", f"vinci \\- {_text(about[:1].lower() + about[1:].rstrip('.'))}")
    yield from (".SH SYNOPSIS", ".B vinci", r"\fICOMMAND\fR [\fIARGUMENTS\fR]")
    yield from (".SH DESCRIPTION", _text(f"{about} Each command tells more with --help."), ".SH COMMANDS")
    for name, (room, _told) in COMMANDS.items():
        yield from _command(load(name, room))
    yield from (".SH EXIT STATUS", _text(EPILOG))
    yield ".SH FILES"
    for path, told in FILES:
        yield from (".TP", f".I {_text(path)}", _text(told))


def _command(command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=command.name)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    words = [f"[{_name(each)}]" if not each.required else _name(each) for each in arguments]
    yield ".SS " + " ".join([command.name, *(["[OPTIONS]"] if options else []), *words])
    for paragraph in str(command.help).split("\n\n"):
        yield from (".PP", _text(paragraph))
    for each in (*arguments, *options):
        shown = each.get_help_record(context)
        if shown is not None:
            yield from (".TP", f".B {_text(shown[0])}", _text(shown[1]) or r"\&")
    if command.epilog:
        yield from (".PP", _text(command.epilog))


def _name(argument: Any) -> str:
    return _text(str(argument.metavar or argument.name).upper())


def _text(text: str) -> str:
    """Words as they are: nothing in them is a request."""
    words = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    return f"\\&{words}" if words.startswith(".") else words


if __name__ == "__main__":
    sys.stdout.write(page())
