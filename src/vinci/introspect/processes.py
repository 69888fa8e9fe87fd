# SPDX-License-Identifier: GPL-2.0-or-later
"""Which processes run: the guest's lists against its table of pids and its memory, programs against the image."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.code import Code
from vinci.introspect.files import NETWORK_FILE_SYSTEMS, FileNames, GuestFile
from vinci.introspect.findings import Check, CheckResult, Severity
from vinci.introspect.guest import Guest
from vinci.introspect.linear import LinearMap
from vinci.introspect.memory import Implausible
from vinci.introspect.sampling import Sample, check_by_samples
from vinci.introspect.slabs import Slabs
from vinci.introspect.tasks import (
    Task,
    TaskReader,
    idle,
    in_pid_table,
    in_slabs,
    listed,
    looks_dead,
    looks_unborn,
    thread_function,
)

SAME_PLACE_LOOKS = 20
SAME_PLACE_SECONDS = 10.0
"""In so many looks running and so long there is no other process's record being made or freed at the same address."""


@dataclass(frozen=True, slots=True)
class _Views:
    listed: Set[int]
    by_pid: Set[int]
    in_memory: Set[int]
    idle: Set[int]

    @property
    def all(self) -> Set[int]:
        return self.listed | self.by_pid | self.in_memory


def check_processes(guest: Guest, certified: CertifiedFiles, programs: frozenset[str] | None = None) -> CheckResult:
    """Find hidden processes, kernel threads outside certified code, and programs that are not the image's.

    Args:
        certified: the image's files.
        programs: the paths of programs that may run; None for every program of the image, and for those of shares.
    """
    return check_by_samples(Check.PROCESSES, guest, lambda: _sample(guest, Code.of(guest), certified, programs))


def _sample(guest: Guest, code: Code, certified: CertifiedFiles, programs: frozenset[str] | None) -> Sample:
    sample = Sample()
    linear = LinearMap.of(guest)
    for page in linear.bent[:1].tolist():
        what = f"{len(linear.bent)} pages of the kernel's direct map lead to other memory than their own"
        sample.add("direct map", Check.PROCESSES, what, f"{page:#x}")
    views = _Views(listed(guest), in_pid_table(guest), set(in_slabs(linear, Slabs.of(linear)).tolist()), idle(guest))
    reader = TaskReader(guest)
    _compare(sample, guest, views, reader)
    names = FileNames(guest)
    threads: dict[Task, int] = {}
    for address in views.all - views.idle:
        try:
            task = reader.read(address)
            if task.mm:
                _check_program(sample, task, _program(guest, names, task), certified, programs)
            elif task.is_kernel_thread and address in views.listed:
                threads[task] = thread_function(guest, task)
        except Implausible as error:
            # one that just ends; if it lasts, it is kept that way
            sample.add(("unreadable", address), Check.PROCESSES, f"a process cannot be read: {error}", f"{address:#x}")
    _check_kernel_threads(sample, code, threads)
    sample.examined = len(views.all)
    return sample


def _compare(sample: Sample, guest: Guest, views: _Views, reader: TaskReader) -> None:
    living = [reader.read(address) for address in views.listed]
    canaries, pids = {task.canary for task in living}, {task.pid for task in living}
    for address in (views.all - views.idle) - (views.listed & views.by_pid & views.in_memory):
        missing = _missing(guest, address, views)
        if not missing:
            continue
        try:
            task = reader.read(address)
        except Implausible as error:
            sample.add(
                ("torn", address), Check.PROCESSES, f"the list of processes leads astray: {error}", f"{address:#x}"
            )
            continue
        unlisted = address not in views.listed and address not in views.by_pid
        if unlisted and (looks_dead(task) or looks_unborn(task, canaries, pids)) and not _lasts(guest, task):
            continue
        what = f"a process that is missing from {' and from '.join(missing)}: it is hidden"
        sample.add(("hidden", *task.key), Check.PROCESSES, what, _where(guest, task))


def _lasts(guest: Guest, task: Task) -> bool:
    """Whether a task that is said to be just made or just ended was so for too long, or one in its place every time.

    The canary is the guest's to write; under a load of forks another task may be at the same address at some looks.
    """
    again = guest.passing.lasts(task.address, looks=SAME_PLACE_LOOKS, seconds=SAME_PLACE_SECONDS)
    return guest.passing.lasts(task.key) or again


def _missing(guest: Guest, address: int, views: _Views) -> list[str]:
    found = []
    if address not in views.listed:
        found.append("the list of processes")
    if address not in views.by_pid and address != guest.symbol("init_task"):
        found.append("the table of pids")
    if address not in views.in_memory and address != guest.symbol("init_task"):
        found.append("the memory that processes' records are made in")
    return found


def _where(guest: Guest, task: Task) -> str:
    try:
        file = _program(guest, FileNames(guest), task) if task.mm else None
    except Implausible:
        file = None
    return f"{task.where} {file.path}" if file else task.where


def _program(guest: Guest, names: FileNames, task: Task) -> GuestFile | None:
    """The program that a process runs; None when it has given its memory back."""
    executable = guest.u64(task.mm + guest.layout.offset("mm_struct", "exe_file"))
    return names.open_file(executable)[0] if executable else None


def _check_program(
    sample: Sample, task: Task, file: GuestFile | None, certified: CertifiedFiles, programs: frozenset[str] | None
) -> None:
    if file is None:
        return
    what, key, severity = "", "", Severity.TAMPERED
    if file.file_system in NETWORK_FILE_SYSTEMS:
        what, key = "a program from a share", "share"
        severity = Severity.NOTE if programs is None else Severity.TAMPERED
    elif file.path not in certified.programs:
        what, key = "a program that is not the image's", "foreign"
    elif programs is not None and file.path not in programs:
        what, key = "a program that this kind of VM does not run", "undeclared"
    if what:
        sample.add((key, file.path), Check.PROCESSES, what, f"{task.where} {file.path}", severity)


def _check_kernel_threads(sample: Sample, code: Code, threads: dict[Task, int]) -> None:
    """Each runs a certified function, or 0: `kthread()` did not start it."""
    certified = code.are_functions(np.fromiter(threads.values(), np.uint64, len(threads)))
    for (task, function), good in zip(threads.items(), certified.tolist(), strict=True):
        if function and not good:
            what = f"a kernel thread that runs {code.guest.describe(function)}, which is no certified function"
            sample.add(("thread", *task.key), Check.PROCESSES, what, task.where)
