# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of exit statuses, and the one exception that carries a sentence and a status to the user."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Exit status of every command."""

    DONE = 0
    DOES_NOT_HOLD = 1
    USAGE = 2
    FAILED = 3


class Failure(Exception):  # noqa: N818 - it is not an error of the program
    """A command ends here: one clear sentence and an exit status."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


class NothingUp(Failure):
    """No agent listens, so nothing is in force. One that listens and does not answer is another failure."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Status.FAILED)


def reason_of(error: OSError) -> str:
    """What the system did not let the command do, in one sentence."""
    what = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        what = f"{error.filename}: {what}"
    return f"{what} (root may)" if isinstance(error, PermissionError) else what
