# SPDX-License-Identifier: GPL-2.0-or-later
"""Long work, of a command or of the agent for it, and how it is told on standard error while it goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from vinci.cli.client import lines
from vinci.cli.failure import Failure, Status
from vinci.cli.output import error_console, record_line
from vinci.node.paths import NodePaths

if TYPE_CHECKING:
    from rich.progress import Progress

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="tell each step and record of the audit as a line with its time"),
]


class Telling(Enum):
    """How much of long work is told."""

    NOTHING = auto()
    BARS = auto()
    LINES = auto()


def telling(quiet: bool, verbose: bool, as_json: bool) -> Telling:
    """What was asked for; who wants JSON gets bars of no kind. Raises Failure (usage) at a contradiction."""
    if quiet and verbose:
        raise Failure("--quiet and --verbose contradict each other: give one of them", Status.USAGE)
    if verbose:
        return Telling.LINES
    return Telling.NOTHING if quiet or as_json else Telling.BARS


class Display(Protocol):
    """Where long work is told."""

    def step(self, name: str, done: int, total: int, detail: str = "") -> None:
        """A step went on: `done` parts of `total`, the last of them being `detail`."""

    def record(self, record: Mapping[str, object]) -> None:
        """The audit took a record."""


@contextmanager
def display(how: Telling) -> Iterator[Display]:
    """Tell long work on standard error. Bars are one line a step when that is no terminal."""
    if how is Telling.LINES:
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=error_console, disable=how is Telling.NOTHING) as progress:
        yield _Bars(progress)


class _Bars:
    """A bar a step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def step(self, name: str, done: int, total: int, detail: str = "") -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=max(total, 1))
        self._progress.update(self._tasks[name], completed=done if total else 1, total=max(total, 1))

    def record(self, record: Mapping[str, object]) -> None:
        pass


class _Lines:
    """A line a step's part and a line a record, in the columns of `vinci audit`."""

    def step(self, name: str, done: int, total: int, detail: str = "") -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        message = f"{name}: {detail or f'{done} of {total}'}"
        self.record({"id": "", "time": now, "severity": "", "event": "step", "message": message})

    def record(self, record: Mapping[str, object]) -> None:
        print(record_line(record), file=sys.stderr, flush=True)


async def follow(paths: NodePaths, path: str, how: Telling, **options: Any) -> dict[str, Any]:
    """Have the agent do long work, and tell it; its result, which may hold what `failed`.

    Raises:
        Failure: the agent refused the file, or broke off.
    """
    if how is Telling.LINES:
        options["params"] = {**options.get("params", {}), "records": "1"}
    with display(how) as told:
        async for line in lines(paths, "POST", path, **options):
            message = json.loads(line)
            if "progress" in message:
                told.step(message["progress"], message["done"], message["total"])
            elif "record" in message:
                told.record(message["record"])
            elif "refused" in message:
                raise Failure(f"the agent refused the file:\n{message['refused']}", Status.USAGE)
            else:
                return dict(message)
    raise Failure(f"the agent broke off: see {paths.log}", Status.FAILED)
