# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `vinci`. Exit status of every command: see `vinci.cli.failure.Status`."""

from __future__ import annotations

import sys

import typer

from vinci.cli.failure import Failure, Status, reason_of
from vinci.cli.rooms import Rooms
from vinci.settings import SettingsError

EPILOG = (
    "Exit status: 0 done; 1 what was asked about does not hold; 2 wrong usage or a broken file; 3 an operation failed."
)

app = typer.Typer(
    name="vinci",
    cls=Rooms,
    help="Share one ICT infrastructure securely among several user communities.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Entry point: run a command, turn its end into an exit status."""
    try:
        app(standalone_mode=True)
    except Failure as failure:
        _complain(str(failure))
        sys.exit(failure.status)
    except SettingsError as error:
        _complain(str(error))
        sys.exit(Status.USAGE)
    except OSError as error:
        _complain(reason_of(error))
        sys.exit(Status.FAILED)
    except KeyboardInterrupt:
        sys.exit(Status.FAILED)


def _complain(sentence: str) -> None:
    from vinci.cli.output import error_console  # it takes its time to load, and help needs none of it

    error_console.print(f"vinci: {sentence}", style="red", highlight=False, markup=False, soft_wrap=True)
