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
