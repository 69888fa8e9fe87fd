# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests' own rootkit in a running VM: each trick is seen from outside and named, and taken back it is not."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rootkit.build import rootkit_module
from rootkit.driver import Rootkit, Trick
from rootkit.expected import EXPECTED, Expected, lines, named
from rootkit.policies import laxer_policy
from seen_vm import Seen, boot_seen

from vinci.images.build import Images
from vinci.images.manifest import read_manifest
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.findings import Check, CheckResult, Finding
from vinci.introspect.hooks import HookTables
from vinci.introspect.look import Subject, look
from vinci.introspect.profile import Profile, ensure_profile
from vinci.introspect.selinux import SelinuxWatch

SETTLING_SECONDS = 30.0
"""The kernel gives pages of code back some time after they were last used."""

LEAVES_CODE = {Trick.KPROBE_BODY: (Check.EXECUTABLE_PAGES,), Trick.XDP: (Check.EXECUTABLE_PAGES, Check.TEXT)}
"""The kernel keeps pages of copied instructions (kprobes); the dispatcher of XDP, and calls that lead past it."""


@dataclass
class Watched:
    """An APP-VM that the rootkit plays in, and what looks at it."""

    images: Images
    profile: Profile
    seen: Seen
    rootkit: Rootkit
    subject: Subject
    results: tuple[CheckResult, ...] = ()
    stays: set[Finding] = field(default_factory=set)
    """What is reported until the VM is started anew, and no trick's any more."""

    def look(self) -> set[Finding]:
        """What a whole look finds; a check that fails says so in a finding of its own."""
        self.results = look(self.subject, self.seen.registers())
        found = {finding for result in self.results for finding in result.findings} | {
            Finding(result.check, result.error, "") for result in self.results if result.error
        }
        return found - self.stays

    def look_until(self, expected: set[Finding], *but: Check) -> set[Finding]:
        """What a look finds beyond `expected`, once only the checks `but` find more, or when time is over."""
        end = time.monotonic() + SETTLING_SECONDS
        found = self.look() - expected
        while {finding.check for finding in found} - {*but} and time.monotonic() < end:
            time.sleep(0.2)
            found = self.look() - expected
        return found

    def keep_traces(self, expected: set[Finding], checks: tuple[Check, ...]) -> None:
        """What these checks still report stays so."""
        left = self.look_until(expected, *checks)
        assert {finding.check for finding in left} == {*checks}, lines(left)
        self.stays |= left


@pytest.fixture(scope="module")
def watched(images: Images) -> Iterator[Watched]:
    profile = ensure_profile(images)
    with asyncio.Runner() as runner:
        folder = Path(tempfile.mkdtemp(prefix="vinci-rootkit-", dir="/dev/shm"))
        rig, seen = boot_seen(runner, images, profile, folder, "APP")
        try:
            rootkit = Rootkit(seen.machine, rootkit_module(images))
            runner.run(rootkit.install())
            files = CertifiedFiles.of(read_manifest(images.app_manifest))
            selinux = SelinuxWatch([images.app_policy.read_bytes()])
            subject = Subject(seen.guest, files, HookTables(profile), selinux=selinux)
            yield Watched(images, profile, seen, rootkit, subject)
        finally:
            runner.run(rig.close())


@pytest.mark.parametrize("trick", [trick for trick in Trick if not trick.is_program])
def test_a_trick_of_the_kernel_module_is_named(watched: Watched, trick: Trick) -> None:
    assert not (before := watched.look()), lines(before)
    run = watched.seen.runner.run
    run(watched.rootkit.load())
    try:
        loaded = watched.look()
        assert named(loaded, Expected(Check.MODULES, "rootkit"), 0), lines(loaded)
        pid = run(watched.rootkit.do(trick))
        try:
            found = watched.look() - loaded
            assert named(found, EXPECTED[trick], pid), f"{trick}, pid {pid}:\n{lines(found)}"
        finally:
            run(watched.rootkit.undo(trick))
        if trick in LEAVES_CODE:
            watched.keep_traces(loaded, LEAVES_CODE[trick])
        assert not (left := watched.look_until(loaded)), lines(left)
    finally:
        run(watched.rootkit.unload())
    assert not (left := watched.look_until(set())), lines(left)


@pytest.mark.parametrize("trick", [trick for trick in Trick if trick.is_program])
def test_a_trick_of_a_program_is_named(watched: Watched, trick: Trick) -> None:
    assert not (before := watched.look()), lines(before)
    run = watched.seen.runner.run
    pid = run(watched.rootkit.do(trick))
    try:
        found = watched.look()
        assert named(found, EXPECTED[trick], pid), f"{trick}, pid {pid}:\n{lines(found)}"
    finally:
        run(watched.rootkit.undo(trick))
    if trick in LEAVES_CODE:
        watched.keep_traces(set(), LEAVES_CODE[trick])
    assert not (left := watched.look_until(set())), lines(left)


def test_a_replaced_policy_is_named(watched: Watched, tmp_path: Path) -> None:
    """SELinux enforces, and lies about nothing: but what it enforces is not the image's policy."""
    run, machine = watched.seen.runner.run, watched.seen.machine
    laxer = laxer_policy(("vinci_user_t", "vinci_user_t", "process", "execmem"))
    load = "dd if=/root/policy of=/sys/fs/selinux/load bs=64M count=1"
    for policy, wrong in ((laxer, True), (watched.images.app_policy.read_bytes(), False)):
        run(machine.put("/root/policy", policy))
        run(watched.rootkit.do(Trick.SELINUX_ENFORCING))
        run(machine.ok(load))
        run(watched.rootkit.undo(Trick.SELINUX_ENFORCING))
        run(watched.rootkit.unload())
        found = watched.look_until(set())
        assert named(found, Expected(Check.SELINUX, "not the trusted one.*vinci_user_t"), 0) == wrong, lines(found)


def test_a_kernel_that_was_started_by_another_is_named(watched: Watched) -> None:
    """Last in this file: the VM is another one afterwards. The new kernel is the image's own, without SELinux."""
    run, images = watched.seen.runner.run, watched.images
    assert not (before := watched.look()), lines(before)
    line = (
        run(watched.seen.machine.ok("cat /proc/cmdline")).replace("security=selinux enforcing=1", "selinux=0").strip()
    )
    run(watched.rootkit.kexec_load(images.kernel, images.initramfs, line))
    found = watched.look()
    assert named(found, Expected(Check.PLACE, "another kernel is loaded.*kexec_image"), 0), lines(found)
    run(watched.rootkit.kexec())
    found = watched.look()
    assert named(found, Expected(Check.PLACE, ""), 0), lines(found)
