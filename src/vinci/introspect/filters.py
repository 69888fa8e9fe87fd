# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled BPF programs that something in the guest runs as a filter: of its system calls (seccomp) or of a socket.

By them a log-in's sandbox is told from code that somebody put among compiled programs and that no filter leads to.
"""

from __future__ import annotations

import contextlib

from vinci.introspect.files import FileNames
from vinci.introspect.guest import Guest
from vinci.introspect.lists import chain
from vinci.introspect.memory import Implausible
from vinci.introspect.open_files import open_sockets
from vinci.introspect.tasks import in_pid_table, listed

_MAX_FILTERS = 64
"""Of one process."""


def filter_programs(guest: Guest, sandboxed: frozenset[str] | None) -> set[int]:
    """The addresses at which the code of all these filters begins.

    Args:
        sandboxed: paths of the programs whose system calls may be filtered, and no socket's packets; None for every
            program and every socket.

    Raises Unreadable, Broken when the lists of processes cannot be followed.
    """
    found = _of_processes(guest, sandboxed)
    return found if sandboxed is not None else found | _of_sockets(guest)


def _of_processes(guest: Guest, sandboxed: frozenset[str] | None) -> set[int]:
    layout = guest.layout
    first, following = layout.offset("task_struct", "seccomp.filter"), layout.offset("seccomp_filter", "prev")
    program, code = layout.offset("seccomp_filter", "prog"), layout.offset("bpf_prog", "bpf_func")
    names = FileNames(guest)
    found: set[int] = set()
    for task in listed(guest) | in_pid_table(guest):
        with contextlib.suppress(Implausible):  # it ends just now
            filter_ = guest.u64(task + first)
            if filter_ and (sandboxed is None or _program(guest, names, task) in sandboxed):
                filters = list(chain(guest, filter_, following, _MAX_FILTERS))
                found.update(guest.u64(guest.u64(at + program) + code) for at in filters)
    return found


def _program(guest: Guest, names: FileNames, task: int) -> str:
    layout = guest.layout
    space = guest.u64(task + layout.offset("task_struct", "mm"))
    file = guest.u64(space + layout.offset("mm_struct", "exe_file")) if space else 0
    return names.open_file(file)[0].path if file else ""


def _of_sockets(guest: Guest) -> set[int]:
    layout = guest.layout
    inner, filter_at = layout.offset("socket", "sk"), layout.offset("sock", "sk_filter")
    program, code = layout.offset("sk_filter", "prog"), layout.offset("bpf_prog", "bpf_func")
    found: set[int] = set()
    for one in open_sockets(guest, lambda *_: None):
        with contextlib.suppress(Implausible):  # it is closed just now
            sock = guest.u64(one.socket + inner)
            filter_ = guest.u64(sock + filter_at) if sock else 0
            if filter_:
                found.add(guest.u64(guest.u64(filter_ + program) + code))
    return found
