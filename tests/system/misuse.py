#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user's program must not do in an APP-VM: `misuse.py WAY [ARGUMENT]`, run in a guest by test_app_selinux.py.

Prints `done` when it could. Standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CODE = mmap.PROT_READ | mmap.PROT_EXEC
WRITABLE_CODE = CODE | mmap.PROT_WRITE


def protect(address: int, protection: int) -> None:
    """mprotect(2) of the page that holds `address`."""
    page = ctypes.c_void_p(address & ~(mmap.PAGESIZE - 1))
    if LIBC.mprotect(page, mmap.PAGESIZE, protection) == -1:
        raise OSError(ctypes.get_errno(), "mprotect")


def area(name: str) -> int:
    """Where the area of that name begins in this process."""
    with Path("/proc/self/maps").open() as maps:
        return int(next(line for line in maps if line.rstrip().endswith(name)).split("-")[0], 16)


def fresh_memory() -> None:
    """Memory that can be written and executed."""
    mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, WRITABLE_CODE)


def heap() -> None:
    """Code on the heap."""
    protect(area("[heap]"), WRITABLE_CODE)


def stack() -> None:
    """Code on the stack."""
    protect(area("[stack]"), WRITABLE_CODE)


def changed_library() -> None:
    """A library's code, changed in memory and then executed."""
    with Path("/usr/bin/busybox").open("rb") as file:
        memory = mmap.mmap(file.fileno(), mmap.PAGESIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    memory[0] = 0
    protect(ctypes.addressof(ctypes.c_char.from_buffer(memory)), CODE)


def memory_file() -> None:
    """A program that is in no file system."""
    memory = os.memfd_create("x")
    os.write(memory, Path("/usr/bin/busybox").read_bytes())
    os.execve(memory, ["busybox", "echo", "done"], {})


def packet_socket() -> None:
    """A sniffer."""
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))


def attach(pid: str) -> None:
    """A debugger on another process: PTRACE_ATTACH."""
    if LIBC.ptrace(16, int(pid), 0, 0) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


WAYS: dict[str, Callable[..., None]] = {
    "fresh-memory": fresh_memory,
    "heap": heap,
    "stack": stack,
    "changed-library": changed_library,
    "memory-file": memory_file,
    "packet-socket": packet_socket,
    "attach": attach,
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])
    print("done")
