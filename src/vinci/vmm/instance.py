# SPDX-License-Identifier: GPL-2.0-or-later
"""One life of a VM as the machine sees it: its QEMU process, and the memory that this process really maps."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from select import POLLIN, poll
from threading import Lock

_MIB = 1024 * 1024
_STARTTIME = 19
"""Place of `starttime` among the words after the command's name in /proc/PID/stat (proc(5), field 22)."""
_PROCESSOR = re.compile(r"CPU (\d+)/(?:KVM|TCG)")
"""How QEMU names the thread of a processor (`-name debug-threads=on`, as libvirt starts it)."""
_MAX_QEMU_NAME = "qemu-system-x86"
"""The kernel keeps 15 characters of a process's name."""


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Of a thread that is a VM's processor (/proc/PID/schedstat), seconds: it ran; it could have, but had to wait."""

    ran: float
    waited: float


@dataclass(frozen=True, slots=True)
class Instance:
    """A running QEMU process. Process ids are used again, one with its start time is not."""

    pid: int
    started: int
    """In clock ticks since the machine's boot."""

    def __str__(self) -> str:
        return f"{self.pid}-{self.started}"

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - self.started / os.sysconf("SC_CLK_TCK")

    def processor_times(self) -> dict[int, ProcessorTime]:
        """The times of each of the VM's processors by its number; empty when it ended or QEMU does not tell."""
        found = {}
        with suppress(LookupError):
            for number, schedstat in _threads(self):
                with suppress(OSError, ValueError):
                    ran, waited, _ = schedstat.read_text().split()
                    found[number] = ProcessorTime(int(ran) / 1e9, int(waited) / 1e9)
        return found


@lru_cache(maxsize=4096)
def _threads(instance: Instance) -> tuple[tuple[int, Path], ...]:
    """The number and the schedstat of each processor's thread; they stay the same for a VM's life.

    Raises LookupError when there is none yet.
    """
    found = []
    for task in Path(f"/proc/{instance.pid}/task").glob("*"):
        with suppress(OSError):
            name = _PROCESSOR.fullmatch((task / "comm").read_text().strip())
            if name is not None:
                found.append((int(name[1]), task / "schedstat"))
    if not found:
        raise LookupError(f"process {instance.pid} has no processors")
    return tuple(found)


def instance_of(pid_file: Path) -> Instance | None:
    """The QEMU process that a pid file names; None when there is none, or only what a crash left of it."""
    try:
        pid = int(pid_file.read_text())
        name, _, fields = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except (OSError, ValueError):
        return None
    words = fields.split()
    if name != _MAX_QEMU_NAME or words[0] in ("Z", "X"):
        return None
    return Instance(pid, int(words[_STARTTIME]))


class Lives:
    """Which process a VM runs in now, asked often: once it is known, its pidfd tells whether it still runs."""

    def __init__(self, pid_files: Path) -> None:
        """`pid_files` is the directory in which each VM has one."""
        self._pid_files = pid_files
        self._known: dict[str, tuple[Instance, int, poll]] = {}
        self._lock = Lock()

    def of(self, name: str) -> Instance | None:
        """The QEMU process of a VM; None when it does not run."""
        with self._lock:
            if name in self._known:
                instance, descriptor, ended = self._known[name]
                if not ended.poll(0):
                    return instance
                del self._known[name]
                os.close(descriptor)
            return self._found(name)

    def _found(self, name: str) -> Instance | None:
        file = self._pid_files / f"{name}.pid"
        instance = instance_of(file)
        if instance is None:
            return None
        try:
            descriptor = os.pidfd_open(instance.pid)
        except OSError:
            return None
        if instance_of(file) != instance:  # it ended, and the number may be another process's
            os.close(descriptor)
            return None
        self._let_go()
        self._let_go()
        ended = poll()
        ended.register(descriptor, POLLIN)
        self._known[name] = instance, descriptor, ended
        return instance

    def _let_go(self) -> None:
        """Of processes that ended, of VMs that nobody may ask for again."""
        for name, (_, descriptor, ended) in list(self._known.items()):
            if ended.poll(0):
                del self._known[name]
                os.close(descriptor)


def open_ram(instance: Instance, memory_mib: int) -> int:
    """Open a VM's RAM read-only: the file that QEMU maps, whatever lies at the path where it was made.

    Returns:
        A file descriptor; the caller closes it.

    Raises:
        OSError: the process ended, or maps no file of that size as shared memory.
    """
    size = memory_mib * _MIB
    process = Path(f"/proc/{instance.pid}")
    for line in (process / "maps").read_text().splitlines():
        addresses, rights, offset, _rest = line.split(maxsplit=3)
        first, last = (int(word, 16) for word in addresses.split("-"))
        if rights[3] != "s" or int(offset, 16) != 0 or last - first < size:
            continue
        descriptor = os.open(process / "map_files" / f"{first:x}-{last:x}", os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            return descriptor
        os.close(descriptor)
    raise OSError(f"process {instance.pid} maps no file of {memory_mib} MiB as a VM's memory")
