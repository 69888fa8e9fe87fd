# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in an APP-VM as root: tries each operation on each share with one user's UID and says which ones worked.

It is one interpreter that forks: in an emulated guest starting a program costs more than all that it does. Only what
Python has built in is imported. The node's side is `vinci.node.verification.files`.

usage: python3 -IS - UID GID [NAME SERVER:PATH]...; prints for each NAME, read, append, write, execute (TABs between)
"""

import _signal  # type: ignore[import-not-found]  # `signal` would bring `enum`, and that half of the library
import os
import sys
from collections.abc import Callable

SECONDS = 20
OPTIONS = "vers=4.2,sec=sys,hard,sync,nosuid,nodev"
APPENDS = 3
"""An append that meets another client's may be refused, and says so: it is tried again."""


def read(probe: str) -> bool:
    os.read(os.open(probe, os.O_RDONLY), 1)
    return True


def append(probe: str) -> bool:
    return _wrote(probe, os.O_APPEND, b".")


def write(probe: str) -> bool:
    return _wrote(probe, 0, b"\0")


def _wrote(probe: str, flags: int, data: bytes) -> bool:
    file = os.open(probe, os.O_WRONLY | os.O_CREAT | flags, 0o666)
    os.write(file, data)
    os.close(file)
    return True


def execute(probe: str) -> bool:
    """Asked of the server (faccessat(2)), not done: others wrote the file."""
    return os.access(probe, os.X_OK)


def works(operation: Callable[[str], bool], probe: str, uid: int, gid: int) -> bool:
    """Whether an operation works for a user, tried in a process that is nothing else than this user."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _signal.alarm(SECONDS)
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            status = 0 if operation(probe) else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def ran(*words: str) -> bool:
    """Whether a program ran and succeeded."""
    silent = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    return os.waitpid(os.posix_spawnp(words[0], words, os.environ, file_actions=silent), 0)[1] == 0


def measure(source: str, folder: str, uid: int, gid: int) -> list[bool]:
    """Whether read, append, write and execute work on the share's probe file."""
    os.makedirs(folder, exist_ok=True)
    found = [False] * 4
    if ran("timeout", str(SECONDS), "mount", "-t", "nfs4", "-o", OPTIONS, source, folder):
        probe = f"{folder}/.vinci-verify"
        found[0] = works(read, probe, uid, gid)
        found[1] = any(works(append, probe, uid, gid) for _ in range(APPENDS))
        found[2] = works(write, probe, uid, gid)
        found[3] = works(execute, probe, uid, gid)
        ran("umount", "-l", folder)
    os.rmdir(folder)
    return found


def main(words: list[str]) -> None:
    """Measure all shares that the arguments name."""
    uid, gid = int(words[0]), int(words[1])
    for name, source in zip(words[2::2], words[3::2], strict=True):
        found = measure(source, f"/run/vinci-verify/{name}.{uid}", uid, gid)
        print(name, *("yes" if worked else "no" for worked in found), sep="\t", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
