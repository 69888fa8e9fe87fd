# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `vinci`. Exit status of every command: see `vinci.cli.failure.Status`."""

from __future__ import annotations

import sys

import typer

from vinci.cli import declare, inspect, observe, reason, shell, use
from vinci.cli.failure import Failure, Status, reason_of
from vinci.cli.output import error_console

EPILOG = (
    "Exit status: 0 done; 1 what was asked about does not hold; 2 wrong usage or a broken file; 3 an operation failed."
)

app = typer.Typer(
    name="vinci",
    help="Share one ICT infrastructure securely among several user communities.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (declare, reason, observe, inspect, shell, use):
    room.register(app)


def main() -> None:
    """Entry point: run a command, turn its end into an exit status."""
    try:
        app(standalone_mode=True)
    except Failure as failure:
        _complain(str(failure))
        sys.exit(failure.status)
    except OSError as error:
        _complain(reason_of(error))
        sys.exit(Status.FAILED)
    except KeyboardInterrupt:
        sys.exit(Status.FAILED)


def _complain(sentence: str) -> None:
    error_console.print(f"vinci: {sentence}", style="red", highlight=False, markup=False, soft_wrap=True)
