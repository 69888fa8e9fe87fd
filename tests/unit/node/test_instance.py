# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's process and memory are those that the machine shows, not those that a file names."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import pytest

from vinci.vmm.instance import Instance, instance_of, open_ram

MIB = 1 << 20


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "99999999999", "our own"])
def test_a_pid_file_that_leads_to_no_qemu_is_no_vm(tmp_path: Path, text: str) -> None:
    (tmp_path / "vm.pid").write_text(str(os.getpid()) if text == "our own" else text)
    assert instance_of(tmp_path / "vm.pid") is None
    assert instance_of(tmp_path / "missing.pid") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may open the memory of a VM")
def test_the_ram_is_the_file_that_is_mapped_whatever_lies_at_its_path_and_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "pc.ram"
        path.write_bytes(b"true" + bytes(3 * MIB - 4))
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as _mapped:
            path.unlink()
            path.write_bytes(b"fake" + bytes(3 * MIB - 4))
            descriptor = open_ram(Instance(os.getpid(), 0), 3)
            assert os.pread(descriptor, 4, 0) == b"true"
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(descriptor, b"x")
            os.close(descriptor)
            with pytest.raises(OSError, match="maps no file of 5 MiB"):
                open_ram(Instance(os.getpid(), 0), 5)
