# SPDX-License-Identifier: GPL-2.0-or-later
"""Which programs of its image each kind of VM may run: what is not named here is an illegal process.

FS-VMs and FW-VMs run what their own scripts (`vinci/guest`) call, and what an administrator looks around with by
`vinci exec`. APP-VMs are their users': the list of packages that their image is made of is their declaration.
"""

from __future__ import annotations

from vinci.plan.types import VmKind

_OWN = {
    *("/usr/bin/python3.11", "/usr/sbin/sshd"),  # the control channel
    *("/usr/bin/bash", "/usr/bin/busybox", "/usr/bin/dash", "/usr/bin/ip", "/usr/bin/kmod", "/usr/sbin/nft"),
    *("/usr/bin/cat", "/usr/bin/chmod", "/usr/bin/chown", "/usr/bin/dd", "/usr/bin/grep", "/usr/bin/head"),
    *("/usr/bin/hostname", "/usr/bin/kill", "/usr/bin/ln", "/usr/bin/mkdir", "/usr/bin/mktemp", "/usr/bin/mount"),
    *("/usr/bin/mv", "/usr/bin/rm", "/usr/bin/sed", "/usr/bin/sleep", "/usr/bin/sync", "/usr/bin/tail", "/usr/bin/tr"),
    *("/usr/bin/umount", "/usr/bin/uname", "/usr/bin/dmesg"),
}
_LOOKING_AROUND = {
    *("/usr/bin/cut", "/usr/bin/date", "/usr/bin/df", "/usr/bin/du", "/usr/bin/echo", "/usr/bin/env", "/usr/bin/find"),
    *("/usr/bin/free", "/usr/bin/id", "/usr/bin/ls", "/usr/bin/lsblk", "/usr/bin/mawk", "/usr/bin/more"),
    *("/usr/bin/pgrep", "/usr/bin/printf", "/usr/bin/ps", "/usr/bin/readlink", "/usr/bin/seq", "/usr/bin/sha256sum"),
    *("/usr/bin/sort", "/usr/bin/ss", "/usr/bin/stat", "/usr/bin/test", "/usr/bin/timeout", "/usr/bin/top"),
    *("/usr/bin/touch", "/usr/bin/true", "/usr/bin/uniq", "/usr/bin/uptime", "/usr/bin/wc", "/usr/bin/who"),
    "/usr/bin/xargs",
}
_FILE_SERVICE = {
    *("/usr/bin/getfattr", "/usr/bin/mountpoint", "/usr/bin/setfattr", "/usr/sbin/e2fsck", "/usr/sbin/mke2fs"),
    *("/usr/sbin/exportfs", "/usr/sbin/nfsdcld", "/usr/sbin/rpc.mountd", "/usr/sbin/rpc.nfsd", "/usr/sbin/rpcbind"),
}
_FIREWALL = {"/usr/bin/setpriv"}

SANDBOXED: dict[VmKind, frozenset[str] | None] = {
    VmKind.APP: None,
    VmKind.FS: frozenset({"/usr/sbin/sshd"}),
    VmKind.FW: frozenset({"/usr/bin/python3.11", "/usr/sbin/sshd"}),  # gateways (vinci.guest.gateway.confine)
}
"""Paths of programs that filter their own system calls by BPF; None for every program, and for filters of sockets."""

PROGRAMS: dict[VmKind, frozenset[str] | None] = {
    VmKind.APP: None,
    VmKind.FS: frozenset(_OWN | _LOOKING_AROUND | _FILE_SERVICE),
    VmKind.FW: frozenset(_OWN | _LOOKING_AROUND | _FIREWALL),
}
"""Paths of programs in the image; None for every program of the image."""
