# SPDX-License-Identifier: GPL-2.0-or-later
"""Every page that a process can execute is a page of a file of the image: the same bytes, of that file, in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from vinci.introspect.address_spaces import address_spaces
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.files import IMAGE_FILE_SYSTEM, NETWORK_FILE_SYSTEMS, FileNames, GuestFile
from vinci.introspect.findings import Check, CheckResult, Severity
from vinci.introspect.guest import Guest
from vinci.introspect.linear import LinearMap
from vinci.introspect.memory import PAGE_SIZE, Bytes, Implausible, Words, distinct
from vinci.introspect.sampling import MAX_FINDINGS, Sample, check_by_samples
from vinci.introspect.tasks import Task, TaskReader
from vinci.introspect.user_tables import UserPages, executable_user_pages
from vinci.introspect.vdso import VdsoPage, vdso_pages

_VERIFIED = "executable user pages"
_BATCH = 512
"""Pages copied at once."""
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
    named: bool = False
    """Whether `place` names a file and a page of it, which stay the same whoever executes it."""


def check_user_pages(guest: Guest, certified: CertifiedFiles, *, shares: bool = True) -> CheckResult:
    """Find executable pages of processes that are not the image's, or not where the image has them.

    Args:
        certified: the files of the image that the guest runs from.
        shares: whether its users may run code from shares; that is shown, and else counts like any other.
    """
    vdso = vdso_pages(guest)
    return check_by_samples(Check.USER_PAGES, guest, lambda: _sample(guest, certified, vdso, shares))


def _sample(guest: Guest, certified: CertifiedFiles, vdso: dict[int, VdsoPage], shares: bool) -> Sample:
    linear = LinearMap.of(guest)
    spaces, tops, tasks = guest.shared("address spaces", lambda: address_spaces(linear))
    inside = linear.frames(tops) >= 0  # those elsewhere are told with the address spaces
    tasks = tasks[inside]
    roots = (tops[inside] - np.uint64(linear.base)) & np.uint64(-PAGE_SIZE & 0xFFFF_FFFF_FFFF_FFFF)
    pages = executable_user_pages(guest.memory, roots, guest.space.levels)
    sample = Sample(examined=len(pages))
    reader = TaskReader(guest)
    for number in pages.lost.tolist():
        what = "page tables of a process lead outside memory"
        key = ("lost", int(spaces[inside][number]))
        sample.add(key, Check.USER_PAGES, what, reader.read(int(tasks[number])).where)
    order = np.argsort(pages.physical, kind="stable")
    ascending = pages.physical[order]
    for problem in _problems(linear, pages, certified, vdso):
        if problem.severity is Severity.NOTE and not shares:
            problem = replace(problem, severity=Severity.TAMPERED)
        first = int(np.searchsorted(ascending, np.uint64(problem.physical)))
        for row in order[first : first + _SHOWN].tolist():
            if pages.physical[row] == problem.physical:
                task = reader.read(int(tasks[pages.space[row]]))
                _report(sample, task, int(pages.virtual[row]), bool(pages.writable[row]), problem)
        if sample.full:
            break
    return sample


def _problems(
    linear: LinearMap, pages: UserPages, certified: CertifiedFiles, vdso: dict[int, VdsoPage]
) -> Iterator[_Problem]:
    large = pages.size != np.uint64(PAGE_SIZE)
    for physical in np.unique(pages.physical[large]).tolist():
        yield _Problem(physical, "executable memory in a large page, which no file of the image has", "")
    frames = distinct(pages.physical[~large])
    guest = linear.guest
    places = guest.memory.frames_of(frames)
    for physical in frames[places < 0].tolist():
        yield _Problem(physical, "executable memory outside the VM's RAM", "")
    in_vdso = np.isin(frames, np.array(list(vdso), np.uint64))
    for physical in frames[in_vdso & (places >= 0)].tolist():
        if not vdso[physical].explains(guest.memory.read(physical, PAGE_SIZE)):
            yield _Problem(physical, "the vDSO's code was changed", "vDSO")
    rest = ~in_vdso & (places >= 0)
    yield from _not_the_images(guest, frames[rest], places[rest], _owners(linear, frames[rest]), certified)


def _not_the_images(
    guest: Guest, frames: Words, places: npt.NDArray[np.int64], owners: _Owners, certified: CertifiedFiles
) -> Iterator[_Problem]:
    """The pages that are not what the image's files hold there.

    When all owners and all bytes are those of an earlier look that found nothing, one digest tells it.
    """
    hashed = owners.hasher()
    for copies in _copied(guest, places):
        hashed.update(copies.reshape(-1).data)
    if guest.verified.get(_VERIFIED) == hashed.digest():
        return
    problems: list[_Problem] = []
    grave = 0
    hashed = owners.hasher()
    row = 0
    for copies in _copied(guest, places):
        hashed.update(copies.reshape(-1).data)  # of the very copies that are judged
        for page in copies:
            (file, number), names = owners.of(row), certified.names(page.data)
            if file is None or file.file_system != IMAGE_FILE_SYSTEM or (file.path, number) not in names:
                problems.append(_judged(int(frames[row]), file, number, bool(names)))
                grave += problems[-1].severity is Severity.TAMPERED
            row += 1
        if grave > MAX_FINDINGS:
            break
    if not problems:
        guest.verified[_VERIFIED] = hashed.digest()
    yield from problems


def _copied(guest: Guest, places: npt.NDArray[np.int64]) -> Iterator[Bytes]:
    """Copies of the pages, one row each, some at once."""
    for start in range(0, len(places), _BATCH):
        yield guest.memory.tables[places[start : start + _BATCH]].view(np.uint8)


def _judged(physical: int, file: GuestFile | None, number: int, copied: bool) -> _Problem:
    if file is None:
        return _Problem(physical, "executable memory that is no file's", "anonymous memory")
    place = f"{file.path or 'a file without a name'} page {number}"
    if file.file_system == IMAGE_FILE_SYSTEM:
        return _Problem(physical, "code that is not the image's", place, named=bool(file.path))
    place += f" ({file.file_system})"
    if file.file_system in NETWORK_FILE_SYSTEMS:
        return _Problem(physical, "code from a share", place, Severity.NOTE, named=bool(file.path))
    what = "a copy of the image's code" if copied else "code from a file that is not the image's"
    return _Problem(physical, what, place, named=bool(file.path))


@dataclass(frozen=True, slots=True)
class _Owners:
    """Which file each page is of, None for memory that is no file's, and the number of the page in it."""

    files: tuple[GuestFile | None, ...]
    which: npt.NDArray[np.int64]
    """For each page the index of its file in `files`."""
    numbers: Words

    def of(self, row: int) -> tuple[GuestFile | None, int]:
        """The file and the number of one page."""
        return self.files[self.which[row]], int(self.numbers[row])

    def hasher(self) -> blake3:
        """A digest begun with all of it."""
        return blake3(repr(self.files).encode() + self.which.tobytes() + self.numbers.tobytes())


def _owners(linear: LinearMap, frames: Words) -> _Owners:
    """The owner of each frame by the kernel's record of it."""
    layout = linear.guest.layout
    numbers = (frames // np.uint64(PAGE_SIZE)).astype(np.int64)
    mapping, index, head = (layout.offset("page", name) // 8 for name in ("mapping", "index", "compound_head"))
    mappings, indexes = np.zeros(len(frames), np.uint64), np.zeros(len(frames), np.uint64)
    for first, rows in linear.records:
        mine = np.flatnonzero((numbers >= first) & (numbers < first + len(rows)))
        records = rows[numbers[mine] - first]
        whole = records[:, head] & np.uint64(1) == 0
        mappings[mine] = np.where(whole, records[:, mapping], 0)
        indexes[mine] = records[:, index]
    unique, which = np.unique(mappings, return_inverse=True)
    guest, wanted = linear.guest, unique.tolist()
    key = blake3(unique.tobytes()).digest()  # there may be any number of them
    files = guest.recalled("owners of executable pages", key, lambda: _named(guest, wanted))
    return _Owners(tuple(map(files.get, wanted)), which.astype(np.int64), indexes)


def _named(guest: Guest, mappings: Iterable[int]) -> dict[int, GuestFile]:
    """The files of these `address_space`s."""
    names = FileNames(guest)
    host = guest.layout.offset("address_space", "host")
    found: dict[int, GuestFile] = {}
    for mapping in mappings:
        if mapping and not mapping & _ANONYMOUS:
            try:
                found[mapping] = names.of_inode(guest.u64(mapping + host))
            except Implausible:
                continue  # the frame was given back just now
    return found


def _report(sample: Sample, task: Task, virtual: int, writable: bool, problem: _Problem) -> None:
    where = f"{task.where} at {virtual:#x}"
    if writable:
        where += ", writable"
    if problem.place:
        where += f": {problem.place}"
    key = (problem.what, problem.place) if problem.named else (problem.what, task.mm, virtual)
    sample.add(key, Check.USER_PAGES, problem.what, where, problem.severity)
