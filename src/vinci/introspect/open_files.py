# SPDX-License-Identifier: GPL-2.0-or-later
"""The sockets that processes hold open, found through their tables of files (linux/include/linux/fdtable.h)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vinci.introspect.guest import Guest
from vinci.introspect.lists import Broken
from vinci.introspect.memory import Implausible
from vinci.introspect.structs import struct_reader
from vinci.introspect.tasks import in_pid_table, listed

_MAX_FILES = 1 << 16


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """A `struct socket` behind the open file `file`, which is the task's file number `number`."""

    task: int
    number: int
    file: int
    socket: int


def open_sockets(guest: Guest, broken: Callable[[int, int, Implausible], None]) -> Iterator[OpenSocket]:
    """Every socket among the processes' open files, each table of files once.

    A table that cannot be followed is told to `broken`, with the task and the `files_struct`: the process ends just
    now, or was tampered with.
    """
    files_at = guest.layout.offset("task_struct", "files")
    seen: set[int] = set()
    for task in listed(guest) | in_pid_table(guest):
        files = 0
        try:
            files = guest.u64(task + files_at)
            if files and files not in seen:
                seen.add(files)
                yield from _sockets(guest, task, files)
        except Implausible as problem:
            broken(task, files, problem)


def _sockets(guest: Guest, task: int, files: int) -> Iterator[OpenSocket]:
    layout = guest.layout
    table = struct_reader(layout, "fdtable", "max_fds", "fd")
    file = struct_reader(layout, "file", "f_op", "private_data")
    count, array = table.words(guest, guest.u64(files + layout.offset("files_struct", "fdt")))
    if count > _MAX_FILES:
        raise Broken(f"a process with {count} files")
    operations = guest.symbol("socket_file_ops")
    for number, open_file in enumerate(struct.unpack(f"<{count}Q", guest.read(array, 8 * count))):
        if open_file:
            kind, data = file.words(guest, open_file)
            if kind == operations:
                yield OpenSocket(task, number, open_file, data)
