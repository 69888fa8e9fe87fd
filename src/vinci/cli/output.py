# SPDX-License-Identifier: GPL-2.0-or-later
"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console

WIDTH_OF_FILES = 220
"""Columns of tables that go to a file or a pipe: nothing is folded there."""

# Text of files, guests and users is shown as it is: none of it is markup.
console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES, markup=False, emoji=False)
error_console = Console(stderr=True, markup=False, emoji=False)


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


def record_line(record: Mapping[str, object]) -> str:
    """A record of the audit, or what has its fields, as a line for people."""
    columns = f"{record['id']:>6} {record['time']} {record['severity']:<8} {record['event']:<20}"
    return f"{columns} {record['message']}"
