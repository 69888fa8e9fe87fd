# SPDX-License-Identifier: GPL-2.0-or-later
"""The user that each VM's QEMU runs as: one of its own, so that a QEMU that was taken over has nothing of another VM's.

No account has these numbers, and nothing else does: they lie above what systemd, containers and directories give out
(https://systemd.io/UIDS-GIDS). The folder of a VM's sockets belongs to its user, and that is the record of who it is.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from vinci.vmm.host import VmmError

FIRST = 0x7000_0000
INSTALLATIONS = 4096
EACH = 4096
"""Users of one node of one installation."""


class Owners:
    """The users of one node's VMs."""

    def __init__(self, folder: Path) -> None:
        """`folder` is of the node's own; each VM has one in it."""
        self._folder = folder
        digest = hashlib.sha256(str(folder).encode()).digest()
        first = FIRST + int.from_bytes(digest[:4], "big") % INSTALLATIONS * EACH
        self._users = range(first, first + EACH)

    def of(self, vm: str) -> int:
        """The UID, and GID, of a VM; the same as long as its folder is there, which this makes.

        Raises:
            VmmError: all are taken, or the machine's user namespace has no such user.
            OSError: the folder cannot be made or given to the user.
        """
        path = self._folder / vm
        path.mkdir(mode=0o700, exist_ok=True)
        user = path.lstat().st_uid
        if user not in self._users:
            taken = {each.lstat().st_uid for each in self._folder.iterdir()}
            user = next((each for each in self._users if each not in taken), 0)
            if not user:
                raise VmmError(f"no user is left for {vm}: remove the folders of VMs that are gone in {self._folder}")
            self._give(path, user)
        path.chmod(0o700)
        return user

    def _give(self, path: Path, user: int) -> None:
        try:
            os.chown(path, user, user)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise VmmError(
                f"{path.name} needs a user of its own, and user {user} does not exist in this user namespace: run "
                f"Vinci outside of this container, or map UIDs and GIDs {self._users[0]}-{self._users[-1]} into it"
            ) from None
