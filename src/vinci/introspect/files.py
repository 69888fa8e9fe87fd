# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of the guest's files, from its dentries (linux/include/linux/dcache.h). They name; they prove nothing."""

from __future__ import annotations

from dataclasses import dataclass

from vinci.introspect.guest import Guest, printable
from vinci.introspect.lists import Broken
from vinci.introspect.structs import struct_reader

_MAX_DEPTH = 64
_MAX_NAME = 255
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4"})
IMAGE_FILE_SYSTEM = "erofs"
"""The root image; nothing else in a guest is of this kind."""


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file as the guest's kernel knows it: the kind of its file system, and its path from that file system's root."""

    file_system: str
    path: str


class FileNames:
    """Finds the names of one guest's files during one sample, each once."""

    def __init__(self, guest: Guest) -> None:
        layout = guest.layout
        self.guest = guest
        self._dentry = struct_reader(layout, "dentry", "d_parent", "d_name.len", "d_name.name", "d_inode")
        self._file = struct_reader(layout, "file", "f_path.dentry", "f_path.mnt", "f_inode")
        self._alias = layout.offset("dentry", "d_u.d_alias")
        self._inode = struct_reader(layout, "inode", "i_sb", "i_dentry.first")
        self._type = layout.offset("super_block", "s_type")
        self._mount = layout.offset("mount", "mnt")
        self._above = struct_reader(layout, "mount", "mnt_parent", "mnt_mountpoint", "mnt.mnt_root")
        self._paths: dict[int, str] = {}
        self._in_root: dict[tuple[int, int], str] = {}
        self._systems: dict[int, str] = {}
        self._of_inode: dict[int, GuestFile] = {}

    def system(self, super_block: int) -> str:
        """The kind of file system of a super block. Raises Unreadable."""
        if super_block not in self._systems:
            kind = self.guest.u64(super_block + self._type)
            self._systems[super_block] = self.guest.cstring(self.guest.u64(kind), 32)
        return self._systems[super_block]

    def of_inode(self, inode: int) -> GuestFile:
        """The file of an inode; its path is empty when no name leads to it any more. Raises Unreadable, Broken."""
        if inode not in self._of_inode:
            super_block, alias = self._inode.words(self.guest, inode)
            path = self.path_within(alias - self._alias) if alias else ""
            self._of_inode[inode] = GuestFile(self.system(super_block), path)
        return self._of_inode[inode]

    def path_within(self, dentry: int) -> str:
        """A dentry's path from the root of its file system. Raises Unreadable, Broken."""
        if dentry not in self._paths:
            self._paths[dentry] = "/" + "/".join(self._names(dentry, 0))
        return self._paths[dentry]

    def _names(self, dentry: int, root: int) -> list[str]:
        names: list[str] = []
        for _ in range(_MAX_DEPTH):
            parent, length, name, _ = self._dentry.words(self.guest, dentry)
            if dentry == root:
                return names[::-1]
            text = printable(self.guest.read(name, min(length, _MAX_NAME)))
            if dentry == parent:
                return names[::-1] if text == "/" else [text, *names[::-1]]  # a file without a directory (memfd)
            names.append(text)
            dentry = parent
        raise Broken("a file lies deeper than any path")

    def open_file(self, file: int) -> tuple[GuestFile, int]:
        """The file of an open file (`struct file`), with its path in the guest's root, and its inode.

        Raises Unreadable, Broken.
        """
        dentry, mount, inode = self._file.words(self.guest, file)
        system = self.system(self._inode.words(self.guest, inode)[0])
        if (dentry, mount) not in self._in_root:
            self._in_root[dentry, mount] = self._from_root(dentry, mount)
        return GuestFile(system, self._in_root[dentry, mount]), inode

    def _from_root(self, dentry: int, mount: int) -> str:
        names: list[str] = []
        at = mount - self._mount
        for _ in range(_MAX_DEPTH):
            parent, point, root = self._above.words(self.guest, at)
            names = self._names(dentry, root) + names
            if parent == at:
                return "/" + "/".join(names)
            dentry, at = point, parent
        raise Broken("a file system is mounted deeper than any path")
