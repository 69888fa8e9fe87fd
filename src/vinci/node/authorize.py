# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may ask the agent for what. Root administers; members of the group `vinci` use what is up, and change nothing."""

from __future__ import annotations

import grp
import pwd
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

GROUP = "vinci"
FOR_MEMBERS = frozenset({"/v1/status", "/v1/declaration", "/v1/login"})
"""What the group may ask for. All else is the administrator's: a command in a VM is run as root there, the audit names
what everybody did, and a password is a user's identity."""


_NO_LOGIN = 0xFFFFFFFF
"""The loginuid of a process that no login led to."""


class Role(StrEnum):
    """What a peer is to the agent."""

    ADMINISTRATOR = "root"
    MEMBER = "a member of the group vinci"
    STRANGER = "a stranger"


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of the socket, as the kernel tells (unix(7), SO_PEERCRED)."""

    uid: int
    gid: int
    pid: int = 0

    @property
    def name(self) -> str:
        """Who it is, for the audit: the person who logged in on the node (proc(5), loginuid), also behind `sudo`."""
        try:
            uid = int(Path(f"/proc/{self.pid}/loginuid").read_text())
        except (OSError, ValueError):
            uid = _NO_LOGIN
        try:
            return pwd.getpwuid(self.uid if uid == _NO_LOGIN else uid).pw_name
        except KeyError:
            return f"UID {self.uid}"

    @property
    def role(self) -> Role:
        """Looked up anew each time: who was taken out of the group is out.

        Who has no account is no member: a user's subordinate UIDs (subuid(5)) would be thousands of members.
        """
        if self.uid == 0:
            return Role.ADMINISTRATOR
        try:
            account, group = pwd.getpwuid(self.uid), grp.getgrnam(GROUP)
            member = self.gid == group.gr_gid or account.pw_name in group.gr_mem
        except KeyError:
            member = False
        return Role.MEMBER if member else Role.STRANGER

    def refusal(self, path: str) -> str | None:
        """Why this peer may not ask for `path`; None when it may."""
        role = self.role
        if role is Role.ADMINISTRATOR or (role is Role.MEMBER and path in FOR_MEMBERS):
            return None
        if role is Role.MEMBER:
            return "only root may do this: members of the group vinci may log in and see the status"
        return "only root and members of the group vinci may use the agent"


def peer_of(connection: socket.socket) -> Peer:
    """The peer of a connected Unix socket."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", credentials)
    return Peer(uid, gid, pid)
