# SPDX-License-Identifier: GPL-2.0-or-later
"""The initramfs is a cpio archive that cpio itself (GNU's or busybox's format description, `newc`) reads back."""

import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vinci.images import initramfs
from vinci.images.initramfs import archive, character_device, directory, regular, write_initramfs


def read_newc(data: bytes) -> dict[str, tuple[int, bytes]]:
    """An independent reader: header of 110 bytes, name and content each padded to 4 bytes."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[start : start + size])
        at = (start + size + 3) // 4 * 4


@given(st.dictionaries(st.text("abc/", min_size=1, max_size=9), st.binary(max_size=40), max_size=5))
def test_what_is_put_in_is_read_back(files: dict[str, bytes]) -> None:
    data = archive([regular(name, content, 0o755) for name, content in files.items()])
    assert read_newc(data) == {name: (stat.S_IFREG | 0o755, content) for name, content in files.items()}


def test_device_numbers_and_types() -> None:
    data = archive([directory("dev"), character_device("dev/console", 5, 1)])
    entries = read_newc(data)
    assert stat.S_ISDIR(entries["dev"][0])
    assert stat.S_ISCHR(entries["dev/console"][0])
    header = data[data.index(b"dev/console") - 110 :]
    assert [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in (9, 10)] == [5, 1]


def test_modules_are_listed_in_their_loading_order(tmp_path: Path) -> None:
    busybox, init = tmp_path / "busybox", tmp_path / "init"
    busybox.write_bytes(b"ELF")
    init.write_bytes(b"#!/bin/busybox sh\n")
    modules = []
    for name in ("zeta", "alpha"):
        module = tmp_path / f"{name}.ko"
        module.write_bytes(name.encode())
        modules.append(module)
    write_initramfs(tmp_path / "out", busybox, init, tuple(modules))
    entries = read_newc((tmp_path / "out").read_bytes())
    assert entries["modules/load"][1] == b"zeta\nalpha\n"
    assert entries["modules/alpha.ko"][1] == b"alpha"
    assert entries["init"][0] & 0o111
    assert initramfs.regular("x", b"").mode == stat.S_IFREG | 0o644
