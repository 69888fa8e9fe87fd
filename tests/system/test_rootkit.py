# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests' own rootkit in a running VM: each trick is seen from outside and named, and taken back it is not."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rootkit.build import rootkit_module
from rootkit.driver import Rootkit, Trick
from seen_vm import Seen, boot_seen, monitor

from vinci.images.build import Images, ensure_images
from vinci.images.manifest import read_manifest
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.findings import Check, CheckResult, Finding, Severity
from vinci.introspect.hooks import HookTables
from vinci.introspect.look import Subject, look
from vinci.introspect.profile import Profile, ensure_profile
from vinci.introspect.selinux import SelinuxWatch
from vinci.policy.app_policy import app_policy

SETTLING_SECONDS = 30.0
"""The kernel gives pages of code back some time after they were last used."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Which check names a trick, and what its finding says (a regular expression over `what | where`)."""

    check: Check
    words: str


EXPECTED = {
    Trick.FTRACE: Expected(Check.TEXT, "tcp4_seq_show"),
    Trick.KPROBE_ENTRY: Expected(Check.HOOKS, "kprobe.*tcp4_seq_show"),
    Trick.KPROBE_BODY: Expected(Check.TEXT, "tcp4_seq_show"),
    Trick.INLINE_HOOK: Expected(Check.TEXT, "tcp4_seq_show"),
    Trick.SYSCALL_TABLE: Expected(Check.RODATA, "sys_call_table"),
    Trick.MODULE_TEXT: Expected(Check.MODULES, "overlay"),
    Trick.KERNEL_PAGE: Expected(Check.EXECUTABLE_PAGES, "0x"),
    Trick.ADDRESS_SPACE: Expected(Check.ADDRESS_SPACES, "kernel half"),
    Trick.WRITE_PROTECT: Expected(Check.PLACE, "CR0"),
    Trick.PROC_OPS: Expected(Check.HOOKS, "proc_dir_entry.*rootkit"),
    Trick.FILE_OPS: Expected(Check.HOOKS, "inode.*rootkit"),
    Trick.NETFILTER: Expected(Check.HOOKS, "netfilter.*rootkit|rootkit.*netfilter"),
    Trick.KEY_NOTIFIER: Expected(Check.HOOKS, "keyboard_notifier_list"),
    Trick.MODULE_NOTIFIER: Expected(Check.HOOKS, "module_notify_list"),
    Trick.DEVICE_NOTIFIER: Expected(Check.HOOKS, "netdev_chain"),
    Trick.CORE_PATTERN: Expected(Check.HOOKS, "/tmp/rootkit-core.*core_pattern"),
    Trick.MODPROBE_PATH: Expected(Check.HOOKS, "/tmp/rootkit-modprobe.*modprobe_path"),
    Trick.HIDE_MODULE_LIST: Expected(Check.MODULES, "hidden.*rootkit"),
    Trick.HIDE_MODULE_SYSFS: Expected(Check.MODULES, "hidden.*rootkit"),
    Trick.HIDE_MODULE_TREE: Expected(Check.MODULES, "hidden.*rootkit"),
    Trick.HIDE_TASK: Expected(Check.PROCESSES, r"hid.*PID \(sleep\)"),
    Trick.HIDE_PID: Expected(Check.PROCESSES, r"hid.*PID \(sleep\)"),
    Trick.HIDE_SIBLINGS: Expected(Check.PROCESSES, r"hid.*PID \(sleep\)"),
    Trick.PACKET_HANDLER: Expected(Check.NETWORK, "rootkit"),
    Trick.SELINUX_ENFORCING: Expected(Check.SELINUX, "does not enforce"),
    Trick.SELINUX_HOOK: Expected(Check.SELINUX, "hook.*file_open"),
    Trick.PACKET_SOCKET: Expected(Check.NETWORK, r"packet socket.*PID \(python3\)"),
    Trick.PROMISCUOUS: Expected(Check.NETWORK, "eth0"),
    Trick.XDP: Expected(Check.NETWORK, "XDP.*eth0"),
    Trick.SELF_PATCHING: Expected(Check.USER_PAGES, r"PID \(python3\)"),
    Trick.ANONYMOUS_CODE: Expected(Check.USER_PAGES, r"PID \(python3\)"),
    Trick.FILELESS_PROGRAM: Expected(Check.PROCESSES, "PID .*memfd"),
    Trick.INJECTED_CODE: Expected(Check.USER_PAGES, r"PID \(sleep\)"),
}


@dataclass
class Watched:
    """An APP-VM that the rootkit plays in, and what looks at it."""

    images: Images
    profile: Profile
    seen: Seen
    rootkit: Rootkit
    subject: Subject
    results: tuple[CheckResult, ...] = ()

    def look(self) -> set[Finding]:
        """What a whole look finds; a check that fails says so in a finding of its own."""
        (registers,) = self.seen.runner.run(monitor(self.seen.machine.console.parent / "qmp", "info registers -a"))
        self.results = look(self.subject, registers)
        return {finding for result in self.results for finding in result.findings} | {
            Finding(result.check, result.error, "") for result in self.results if result.error
        }

    def look_until(self, expected: set[Finding]) -> set[Finding]:
        """What a look finds, once that is no more than `expected`; or what is still found when time is over."""
        end = time.monotonic() + SETTLING_SECONDS
        while (found := self.look()) - expected and time.monotonic() < end:
            time.sleep(0.2)
        return found - expected


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    images = ensure_images(Path(os.environ.get("VINCI_IMAGES", "/var/cache/vinci/images")))
    profile = ensure_profile(images)
    with asyncio.Runner() as runner:
        folder = Path(tempfile.mkdtemp(prefix="vinci-rootkit-", dir="/dev/shm"))
        rig, seen = boot_seen(runner, images, profile, folder, "APP")
        try:
            rootkit = Rootkit(seen.machine, rootkit_module(images))
            runner.run(rootkit.install())
            files = CertifiedFiles.of(read_manifest(images.app_manifest))
            selinux = SelinuxWatch([images.app_policy.read_bytes()])
            subject = Subject(seen.guest, files, HookTables(profile), selinux)
            yield Watched(images, profile, seen, rootkit, subject)
        finally:
            runner.run(rig.close())


def _lines(found: set[Finding]) -> str:
    return "\n".join(sorted(f"{finding.check}: {finding.what} | {finding.where}" for finding in found))


def _named(found: set[Finding], expected: Expected, pid: int) -> bool:
    words = re.compile(expected.words.replace("PID", str(pid)))
    return any(
        finding.check is expected.check
        and finding.severity is Severity.TAMPERED
        and words.search(f"{finding.what} | {finding.where}")
        for finding in found
    )


@pytest.mark.parametrize("trick", [trick for trick in Trick if not trick.is_program])
def test_a_trick_of_the_kernel_module_is_named(watched: Watched, trick: Trick) -> None:
    assert not (before := watched.look()), _lines(before)
    run = watched.seen.runner.run
    run(watched.rootkit.load())
    try:
        loaded = watched.look()
        assert _named(loaded, Expected(Check.MODULES, "rootkit"), 0), _lines(loaded)
        pid = run(watched.rootkit.do(trick))
        try:
            found = watched.look() - loaded
            assert _named(found, EXPECTED[trick], pid), f"{trick}, pid {pid}:\n{_lines(found)}"
        finally:
            run(watched.rootkit.undo(trick))
        assert not (left := watched.look_until(loaded)), _lines(left)
    finally:
        run(watched.rootkit.unload())
    assert not (left := watched.look_until(set())), _lines(left)


@pytest.mark.parametrize("trick", [trick for trick in Trick if trick.is_program])
def test_a_trick_of_a_program_is_named(watched: Watched, trick: Trick) -> None:
    assert not (before := watched.look()), _lines(before)
    run = watched.seen.runner.run
    pid = run(watched.rootkit.do(trick))
    try:
        found = watched.look()
        assert _named(found, EXPECTED[trick], pid), f"{trick}, pid {pid}:\n{_lines(found)}"
    finally:
        run(watched.rootkit.undo(trick))
    assert not (left := watched.look_until(set())), _lines(left)


def test_a_replaced_policy_is_named(watched: Watched, tmp_path: Path) -> None:
    """SELinux enforces, and lies about nothing: but what it enforces is not the image's policy."""
    run, machine = watched.seen.runner.run, watched.seen.machine
    source, lax = tmp_path / "cil", tmp_path / "policy"
    allowed = "(allow vinci_user_t vinci_user_t (process (execmem)))"
    kept = [line for line in app_policy().splitlines() if not line.startswith("(neverallow")]
    source.write_text("\n".join([*kept, allowed]))
    subprocess.run(["secilc", "--mls", "true", "-c", "33", "-f", "/dev/null", "-o", str(lax), str(source)], check=True)
    load = "dd if=/root/policy of=/sys/fs/selinux/load bs=64M count=1"
    for policy, wrong in ((lax, True), (watched.images.app_policy, False)):
        run(machine.put("/root/policy", policy.read_bytes()))
        run(watched.rootkit.do(Trick.SELINUX_ENFORCING))
        run(machine.ok(load))
        run(watched.rootkit.undo(Trick.SELINUX_ENFORCING))
        run(watched.rootkit.unload())
        found = watched.look_until(set())
        assert _named(found, Expected(Check.SELINUX, "not the trusted one.*vinci_user_t"), 0) == wrong, _lines(found)


def test_a_kernel_that_was_started_by_another_is_named(watched: Watched) -> None:
    """Last in this file: the VM is another one afterwards. The new kernel is the image's own, without SELinux."""
    run, images = watched.seen.runner.run, watched.images
    assert not (before := watched.look()), _lines(before)
    line = (
        run(watched.seen.machine.ok("cat /proc/cmdline")).replace("security=selinux enforcing=1", "selinux=0").strip()
    )
    run(watched.rootkit.kexec(images.kernel, images.initramfs, line))
    found = watched.look()
    assert _named(found, Expected(Check.PLACE, ""), 0), _lines(found)
