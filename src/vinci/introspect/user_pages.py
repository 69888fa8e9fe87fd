# SPDX-License-Identifier: GPL-2.0-or-later
"""Every page that a process can execute is a page of a file of the image: the same bytes, of that file, in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.files import IMAGE_FILE_SYSTEM, NETWORK_FILE_SYSTEMS, FileNames, GuestFile
from vinci.introspect.findings import Check, CheckResult, Severity
from vinci.introspect.guest import Guest
from vinci.introspect.linear import LinearMap
from vinci.introspect.memory import PAGE_SIZE, Implausible, Words
from vinci.introspect.sampling import Sample, check_by_samples
from vinci.introspect.slabs import Slabs
from vinci.introspect.tasks import Task, TaskReader, in_pid_table, in_slabs, listed
from vinci.introspect.user_tables import UserPages, executable_user_pages
from vinci.introspect.vdso import VdsoPage, vdso_pages

_ANONYMOUS = 1
"""PAGE_MAPPING_ANON in `page.mapping`; bit 0 of `page.compound_head` marks a part of a larger page."""
_SHOWN = 4
"""How many processes are named for one page."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why the page of memory at `physical` may not be executed."""

    physical: int
    what: str
    place: str
    severity: Severity = Severity.TAMPERED


def check_user_pages(guest: Guest, certified: CertifiedFiles) -> CheckResult:
    """Find executable pages of processes that are not the image's, or not where the image has them.

    Args:
        certified: the files of the image that the guest runs from.
    """
    vdso = vdso_pages(guest)
    return check_by_samples(Check.USER_PAGES, guest, lambda: _sample(guest, certified, vdso))


def _sample(guest: Guest, certified: CertifiedFiles, vdso: dict[int, VdsoPage]) -> Sample:
    linear = LinearMap.of(guest)
    spaces = _spaces(guest, linear)
    roots = np.array(list(spaces), np.uint64)
    pages = executable_user_pages(guest.memory, roots, guest.space.levels)
    sample = Sample(examined=len(pages))
    tasks = list(spaces.values())
    for problem in _problems(linear, pages, certified, vdso):
        for row in np.flatnonzero(pages.physical == np.uint64(problem.physical))[:_SHOWN].tolist():
            _report(sample, tasks[int(pages.space[row])], int(pages.virtual[row]), bool(pages.writable[row]), problem)
    return sample


def _spaces(guest: Guest, linear: LinearMap) -> dict[int, Task]:
    """Each address space in use, by the physical address of its top table, with one process that has it.

    A hidden process's pages are looked at as well: its record is found where records are made.
    """
    reader = TaskReader(guest)
    pgd = guest.layout.offset("mm_struct", "pgd")
    known: set[int] = set()
    found: dict[int, Task] = {}
    records = set(in_slabs(linear, Slabs(linear)).tolist())
    for address in listed(guest) | in_pid_table(guest) | records:
        try:
            task = reader.read(address)
            if task.mm and task.mm not in known:
                known.add(task.mm)
                found[guest.physical(guest.u64(task.mm + pgd)) & -PAGE_SIZE] = task
        except Implausible:
            continue  # it ends just now; that it cannot be read for long is for the processes' check to say
    return found


def _problems(
    linear: LinearMap, pages: UserPages, certified: CertifiedFiles, vdso: dict[int, VdsoPage]
) -> Iterator[_Problem]:
    large = pages.size != np.uint64(PAGE_SIZE)
    for physical in np.unique(pages.physical[large]).tolist():
        yield _Problem(physical, "executable memory in a large page, which no file of the image has", "")
    frames = np.unique(pages.physical[~large])
    guest = linear.guest
    owners = _Owners(linear, frames)
    places = guest.memory.frames_of(frames).tolist()
    content = memoryview(guest.memory.bytes)  # type: ignore[arg-type]
    for row, (physical, place) in enumerate(zip(frames.tolist(), places, strict=True)):
        if place < 0:
            yield _Problem(physical, "executable memory outside the VM's RAM", "")
            continue
        page = content[place * PAGE_SIZE : (place + 1) * PAGE_SIZE]
        if physical in vdso:
            if not vdso[physical].explains(bytes(page)):
                yield _Problem(physical, "the vDSO's code was changed", "vDSO")
            continue
        file, number = owners.of(row)
        names = certified.names(page)
        if file is None or file.file_system != IMAGE_FILE_SYSTEM or (file.path, number) not in names:
            yield _judged(physical, file, number, bool(names))


def _judged(physical: int, file: GuestFile | None, number: int, copied: bool) -> _Problem:
    if file is None:
        return _Problem(physical, "executable memory that is no file's", "anonymous memory")
    place = f"{file.path or 'a file without a name'} page {number}"
    if file.file_system == IMAGE_FILE_SYSTEM:
        return _Problem(physical, "code that is not the image's", place)
    place += f" ({file.file_system})"
    if file.file_system in NETWORK_FILE_SYSTEMS:
        return _Problem(physical, "code from a share", place, Severity.NOTE)
    what = "a copy of the image's code" if copied else "code from a file that is not the image's"
    return _Problem(physical, what, place)


class _Owners:
    """To which page of which file each frame belongs, by the kernel's records of page frames."""

    def __init__(self, linear: LinearMap, frames: Words) -> None:
        layout = linear.guest.layout
        numbers = (frames // np.uint64(PAGE_SIZE)).astype(np.int64)
        mapping, index, head = (layout.offset("page", name) // 8 for name in ("mapping", "index", "compound_head"))
        self._mapping = np.zeros(len(frames), np.uint64)
        self._index = np.zeros(len(frames), np.uint64)
        for first, rows in linear.records:
            mine = np.flatnonzero((numbers >= first) & (numbers < first + len(rows)))
            records = rows[numbers[mine] - first]
            whole = records[:, head] & np.uint64(1) == 0
            self._mapping[mine] = np.where(whole, records[:, mapping], 0)
            self._index[mine] = records[:, index]
        self._files = self._named(linear.guest, np.unique(self._mapping))

    @staticmethod
    def _named(guest: Guest, mappings: npt.NDArray[np.uint64]) -> dict[int, GuestFile]:
        names = FileNames(guest)
        host = guest.layout.offset("address_space", "host")
        found: dict[int, GuestFile] = {}
        for mapping in mappings.tolist():
            if mapping and not mapping & _ANONYMOUS:
                try:
                    found[mapping] = names.of_inode(guest.u64(mapping + host))
                except Implausible:
                    continue  # the frame was given back just now
        return found

    def of(self, row: int) -> tuple[GuestFile | None, int]:
        """The file, and the number of the page in it; None for memory that is no file's."""
        return self._files.get(int(self._mapping[row])), int(self._index[row])


def _report(sample: Sample, task: Task, virtual: int, writable: bool, problem: _Problem) -> None:
    where = f"{task.where} at {virtual:#x}"
    if writable:
        where += ", writable"
    if problem.place:
        where += f": {problem.place}"
    sample.add((task.mm, virtual, problem.what), Check.USER_PAGES, problem.what, where, problem.severity)
