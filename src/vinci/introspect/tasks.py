# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's tasks (processes and threads) by three independent ways: lists, table of pids, slab scan.

Sources: linux/include/linux/sched.h (task_struct, signal_struct), kernel/pid.c (`init_pid_ns`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vinci.introspect.guest import Guest, printable
from vinci.introspect.linear import LinearMap
from vinci.introspect.lists import chain, list_entries, xarray_entries
from vinci.introspect.memory import Words
from vinci.introspect.slabs import Slabs
from vinci.introspect.structs import struct_reader

MAX_TASKS = 1 << 16
PF_KTHREAD = 0x00200000
TASK_NEW = 0x0800
"""State of a task that `fork` has not started yet: nothing can run it."""
EXIT_DEAD = 0x10
"""Exit state of a task that its parent has let go of: it may still be about to leave its processor for good."""


class Task(NamedTuple):
    """One `task_struct`, read at once. `canary` is random for each task: it tells two lives of one address apart."""

    address: int
    state: int
    stack: int
    usage: int
    flags: int
    on_cpu: int
    on_rq: int
    mm: int
    exit_state: int
    pid: int
    tgid: int
    canary: int
    signal: int
    worker_private: int
    untrusted_comm: bytes

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it says of itself that it runs in the kernel only."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def comm(self) -> str:
        """Its name, made printable."""
        return printable(self.untrusted_comm.partition(b"\0")[0])

    @property
    def where(self) -> str:
        """As findings name it."""
        return f"pid {self.pid} ({self.comm})"

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from every other task, past ones included."""
        return self.address, self.canary


_FIELDS = (
    "__state",
    "stack",
    "usage",
    "flags",
    "on_cpu",
    "on_rq",
    "mm",
    "exit_state",
    "pid",
    "tgid",
    "stack_canary",
    "signal",
    "worker_private",
    "comm",
)


class TaskReader:
    """Reads tasks of one guest, each once."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._reader = struct_reader(guest.layout, "task_struct", *_FIELDS)
        self._known: dict[int, Task] = {}

    def read(self, address: int) -> Task:
        """The task at an address. Raises Unreadable, OverBudget."""
        task = self._known.get(address)
        if task is None:
            task = self._known[address] = Task(address, *self._reader.read(self.guest, address))  # type: ignore[arg-type]
        return task


def listed(guest: Guest) -> frozenset[int]:
    """Every task on the list of processes and, for each, on its list of threads; without the idle tasks.

    Followed once in a look. Raises Unreadable, Broken, OverBudget.
    """
    return guest.shared("listed tasks", lambda: guest.recalled("listed tasks", None, lambda: _listed(guest)))


def _listed(guest: Guest) -> frozenset[int]:
    layout = guest.layout
    tasks, signal = layout.offset("task_struct", "tasks"), layout.offset("task_struct", "signal")
    node, head = layout.offset("task_struct", "thread_node"), layout.offset("signal_struct", "thread_head")
    found: set[int] = set()
    for entry in list_entries(guest, guest.symbol("init_task") + tasks, MAX_TASKS):
        leader = entry - tasks
        found.add(leader)
        shared = guest.u64(leader + signal)
        if shared:  # a process that is just being reaped has none any more
            found.update(thread - node for thread in list_entries(guest, shared + head, MAX_TASKS))
    return frozenset(found)


def in_pid_table(guest: Guest) -> frozenset[int]:
    """Every task that the table of pids leads to (`init_pid_ns.idr`), followed once in a look.

    Raises Unreadable, Broken, OverBudget.
    """
    return guest.shared("tasks by pid", lambda: guest.recalled("tasks by pid", None, lambda: _in_pid_table(guest)))


def _in_pid_table(guest: Guest) -> frozenset[int]:
    layout = guest.layout
    head = guest.u64(guest.symbol("init_pid_ns") + layout.offset("pid_namespace", "idr.idr_rt.xa_head"))
    tasks, links = layout.offset("pid", "tasks"), layout.offset("task_struct", "pid_links")
    found: set[int] = set()
    for _, pid in xarray_entries(guest, head, MAX_TASKS):
        first = guest.u64(pid + tasks)  # PIDTYPE_PID
        found.update(link - links for link in chain(guest, first, 0, MAX_TASKS))
    return frozenset(found)


def idle(guest: Guest) -> set[int]:
    """The idle task of each processor, which no list holds (`runqueues.idle`); the first one's is `init_task`.

    One for each processor that the VM has, and without memory of its own: whatever else is said to be one may hide
    there. Raises Unreadable.
    """
    cpus = min(guest.u32(guest.symbol("nr_cpu_ids")), len(guest.processors))
    at, space = guest.layout.offset("rq", "idle"), guest.layout.offset("task_struct", "mm")
    said = [guest.u64(guest.per_cpu("runqueues", cpu) + at) for cpu in range(1, cpus)]
    return {guest.symbol("init_task"), *(task for task in said if not guest.u64(task + space))}


def in_slabs(linear: LinearMap, slabs: Slabs) -> Words:
    """Every record of a task that is in use, by the memory that they are made in. Raises Unreadable, Broken.

    `usage` tells those in use from what freed ones have left there; that it is not zero is the guest's word. A fork
    that a signal cuts short (`copy_process`) leaves it as it was: the allocator's list tells that such a one is free.
    """
    objects = slabs.objects("task_struct_cachep")
    layout = linear.guest.layout
    usage = linear.words(objects, layout.offset("task_struct", "usage") & -8)
    if layout.offset("task_struct", "usage") % 8:
        usage >>= np.uint64(32)
    used: Words = objects[usage & np.uint64(0xFFFFFFFF) != 0]
    bare = used[linear.words(used, layout.offset("task_struct", "stack")) == 0]
    free = [task for task in bare.tolist() if slabs.is_free("task_struct_cachep", task)]
    return used[~np.isin(used, np.array(free, np.uint64))] if free else used


def thread_function(guest: Guest, task: Task) -> int:
    """What a kernel thread runs (`kthread.threadfn`); 0 for one that `kthread()` did not start.

    Raises Unreadable.
    """
    if not task.worker_private:
        return 0
    return guest.u64(task.worker_private + guest.layout.offset("kthread", "threadfn"))


def looks_unborn(task: Task, canaries: set[int], pids: set[int]) -> bool:
    """Whether the record is one that `fork` is still filling in: it cannot run yet.

    Args:
        canaries, pids: those of all tasks that are on the lists. A record that was just copied still has its parent's
            canary, and has its parent's pid until it gets one of its own (`copy_process`).
    """
    never_started = task.state & TASK_NEW != 0 and not task.on_cpu and not task.on_rq
    return never_started or task.canary in canaries or task.pid in pids


def looks_dead(task: Task) -> bool:
    """Whether the task has left for good, and its record only waits to be freed: without a stack nothing can run it.

    Or it is just leaving, which takes its moment when its processor does not run.
    """
    return bool(task.exit_state & EXIT_DEAD) or (not task.stack and not task.on_cpu and not task.on_rq)
