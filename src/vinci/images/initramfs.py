# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the initramfs: a cpio archive in the kernel's `newc` format (Documentation/driver-api/early-userspace).

Not compressed: QEMU hands it over by DMA, and unpacking would cost an emulated guest more than it saves.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive. `mode` holds the type bits; `data` is the content or a symlink's target."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory entry."""
    return Entry(path, stat.S_IFDIR | mode)


def regular(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """A regular file with its content."""
    return Entry(path, stat.S_IFREG | mode, data)


def character_device(path: str, major: int, minor: int) -> Entry:
    """A character device node, as /dev/console, which the kernel opens before /init runs."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: list[Entry]) -> bytes:
    """The archive's bytes; owner root and time 0 throughout, so that the same entries give the same bytes."""
    parts = [_encode(entry, number) for number, entry in enumerate(entries, start=1)]
    return b"".join([*parts, _encode(Entry("TRAILER!!!", 0), 0)])


def _encode(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def write_initramfs(target: Path, busybox: Path, init: Path, modules: tuple[Path, ...]) -> None:
    """Write the archive to `target`: busybox, our /init, and `modules` in loading order."""
    folders = ["bin", "dev", "lower", "modules", "proc", "root", "sys", "upper"]
    order = "".join(f"{module.stem}\n" for module in modules)
    entries = [
        *(directory(folder) for folder in folders),
        character_device("dev/console", 5, 1),
        regular("init", init.read_bytes(), 0o755),
        regular("bin/busybox", busybox.read_bytes(), 0o755),
        regular("modules/load", order.encode()),
        *(regular(f"modules/{module.name}", module.read_bytes()) for module in modules),
    ]
    target.write_bytes(archive(entries))
