# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `vinci`. Exit status of every command: see `vinci.cli.failure.Status`."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vinci.cli.failure import Failure, Status, reason_of
from vinci.cli.rooms import Rooms
from vinci.settings import SettingsError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TRACEBACK = "VINCI_TRACEBACK"
"""The variable that shows where a defect is."""
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
    _open_streams()
    try:
        try:
            app(standalone_mode=True)
        finally:
            sys.stdout.flush()
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
    except Exception as error:  # whatever it was: it answers no question, and status 1 would be an answer
        _complain(f"this is a defect of Vinci, please report it: {type(error).__name__}: {error}")
        if os.environ.get(TRACEBACK):
            raise
        _complain(f"{TRACEBACK}=1 shows where")
        sys.exit(Status.FAILED)


class _Output(io.FileIO):
    """Standard output. When nobody reads it any more (`| head`), the program ends as SIGPIPE would end it.

    The signal itself stays ignored: it would also come of an agent that broke off, which has to be told.
    """

    _failed = False
    """That it cannot be written is told once; what is left is dropped."""

    def write(self, data: ReadableBuffer, /) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            os._exit(128 + signal.SIGPIPE)
        except OSError:
            self._failed = True
            raise


def _open_streams() -> None:
    """A closed stream (`<&-`) has nothing to say, or is of no interest; what a locale cannot show is escaped."""
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        return
    with contextlib.suppress(io.UnsupportedOperation):  # no file at all: a test listens
        buffer = io.BufferedWriter(_Output(sys.stdout.fileno(), "w", closefd=False))
        encoding, at_once = sys.stdout.encoding, sys.stdout.isatty()
        sys.stdout = io.TextIOWrapper(buffer, encoding, errors="backslashreplace", line_buffering=at_once)


def _complain(sentence: str) -> None:
    from vinci.cli.output import error_console  # it takes its time to load, and help needs none of it

    with contextlib.suppress(OSError):  # the status has to tell it then
        error_console.print(f"vinci: {sentence}", style="red", highlight=False, markup=False, soft_wrap=True)
