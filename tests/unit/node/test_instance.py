# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM's process and memory are those that the machine shows, not those that a file names."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from vinci.vmm.instance import Instance, Lives, instance_of, open_ram

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


def sleeper(folder: Path) -> subprocess.Popen[bytes]:
    """A process that has a QEMU's name, and its pid file."""
    program = folder / "qemu-system-x86"
    if not program.exists():
        shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([program, "100"])
    while Path(f"/proc/{process.pid}/comm").read_text().strip() != program.name:
        pass
    (folder / "vm.pid").write_text(str(process.pid))
    return process


def test_a_life_lasts_until_its_process_ends_also_while_nobody_reaps_it(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    assert lives.of("vm") is None
    seen = []
    for _ in range(2):
        process = sleeper(tmp_path)
        try:
            seen.append(lives.of("vm"))
            assert seen[-1] == lives.of("vm") == instance_of(tmp_path / "vm.pid") is not None
        finally:
            process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert lives.of("vm") is None
        process.wait()
        assert lives.of("vm") is None
    assert seen[0] != seen[1]


def test_a_life_needs_no_pid_file_any_more(tmp_path: Path) -> None:
    """libvirt takes it away only when the process has ended; a new one is read when the old process has."""
    lives, process = Lives(tmp_path), sleeper(tmp_path)
    try:
        first = lives.of("vm")
        (tmp_path / "vm.pid").unlink()
        assert lives.of("vm") == first
    finally:
        process.kill()
        process.wait()
    assert lives.of("vm") is None


def test_lives_of_vms_that_nobody_asks_for_again_hold_no_descriptor(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    held = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(4):
        process = sleeper(tmp_path)
        (tmp_path / "vm.pid").rename(tmp_path / f"vm-{number}.pid")
        try:
            assert lives.of(f"vm-{number}") is not None
        finally:
            process.kill()
            process.wait()
    assert len(list(Path("/proc/self/fd").iterdir())) == held + 1


def test_processors_are_asked_for_until_there_are_some() -> None:
    script = "read go; printf 'CPU 1/TCG' > /proc/$$/comm; echo done; read go"
    with subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        instance = Instance(process.pid, 0)
        assert instance.processor_times() == {}
        process.stdin.write(b"go\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"done\n"
        assert list(instance.processor_times()) == [1]
        process.stdin.close()
    assert instance.processor_times() == {}
