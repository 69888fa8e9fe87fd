# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes everything from a process that reading memory does not need, before it reads any that may be hostile."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import signal
from pathlib import Path

CHECKER_USER = "vinci-checker"
"""A system user that owns nothing; made by scripts/install-packages."""
MAX_DATA = 1024 * 1024 * 1024
"""Bytes of its own memory. RLIMIT_DATA, as RLIMIT_AS would count the guests' RAM that it maps."""
MAX_FILES = 8192
"""Open files: one for each VM's RAM while it is being mapped, and a few."""

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWNET, _CLONE_NEWUTS = 0x00020000, 0x08000000, 0x40000000, 0x04000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def confine(empty: Path, user: str = CHECKER_USER) -> None:
    """Give up root, files, network, new processes and new privileges for good; die with the parent.

    What is open, mapped and imported stays. Call it with one thread.

    Args:
        empty: an empty directory of root's, which becomes all that is seen of the file system.
        user: whom to become.

    Raises:
        OSError: the kernel refused a step; KeyError: no such user. The process must end then.
    """
    account = pwd.getpwnam(user)
    if any(empty.iterdir()):
        raise OSError(f"{empty} is not empty")
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.unshare(_CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWNET | _CLONE_NEWUTS), "unshare")
    os.chroot(empty)
    os.chdir("/")
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, MAX_DATA),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (most, most))
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
        # After the change of the user, which takes the death signal back (prctl(2)).
        _checked(libc.prctl(option, value, 0, 0, 0), "prctl")


def _checked(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
