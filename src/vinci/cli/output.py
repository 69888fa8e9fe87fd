# SPDX-License-Identifier: GPL-2.0-or-later
"""How commands print: tables for people, JSON for programs, progress on standard error."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

WIDTH_OF_FILES = 220
"""Columns of tables that go to a file or a pipe: nothing is folded there."""

console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
error_console = Console(stderr=True)


def run(work: Coroutine[Any, Any, int]) -> None:
    """Run a command's coroutine and end the program with the status that it gives."""
    raise typer.Exit(asyncio.run(work))


def print_json(data: object) -> None:
    """Print data for programs."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table for people; nothing when it has no rows."""
    if not rows:
        return
    from rich.table import Table  # this and progress bars take their time to load, and few commands need both

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(table)
    console.print()


class Steps:
    """Progress bars, one a step, as they are reported."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def report(self, step: str, done: int, total: int) -> None:
        """A step went on."""
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=max(total, 1))
        self._progress.update(self._tasks[step], completed=done if total else 1, total=max(total, 1))


@contextmanager
def steps(quiet: bool = False) -> Iterator[Steps]:
    """A live display of progress on standard error; plain lines when that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=error_console, disable=quiet) as progress:
        yield Steps(progress)
