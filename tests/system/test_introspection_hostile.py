# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole looks at a VM whose memory was made to lead them astray: it counts as tampered with, within bounds."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from attacked import Attacked, halted, private
from seen_vm import Seen, boot_seen

from vinci.images.build import ensure_images
from vinci.images.manifest import read_manifest
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.findings import Check, CheckResult, Finding, Severity
from vinci.introspect.hooks import HookTables
from vinci.introspect.linear import LinearMap
from vinci.introspect.look import Subject, look
from vinci.introspect.profile import ensure_profile
from vinci.introspect.slabs import Slabs


@dataclass
class Victim:
    """A clean VM that stands still, and what is trusted of it."""

    seen: Seen
    files: CertifiedFiles
    hooks: HookTables

    def attacked(self) -> tuple[Attacked, Subject]:
        """A copy of its memory to be changed, and what looks at the copy."""
        attacked = private(self.seen)
        return attacked, Subject(attacked.guest, self.files, self.hooks)

    def look(self, subject: Subject) -> tuple[CheckResult, ...]:
        """A whole look."""
        return look(subject, self.seen.registers())


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    images = ensure_images(Path(os.environ.get("VINCI_IMAGES", "/var/cache/vinci/images")))
    profile = ensure_profile(images)
    with asyncio.Runner() as runner:
        folder = Path(tempfile.mkdtemp(prefix="vinci-seen-", dir="/dev/shm"))
        rig, seen = boot_seen(runner, images, profile, folder, "APP")
        with halted(seen):
            yield Victim(seen, CertifiedFiles.of(read_manifest(images.app_manifest)), HookTables(profile))
        runner.run(rig.close())


def tampered(results: tuple[CheckResult, ...], check: Check) -> list[Finding]:
    """What counts as tampering by that check."""
    return [f for row in results if row.check is check for f in row.findings if f.severity is Severity.TAMPERED]


def lines(results: tuple[CheckResult, ...]) -> str:
    said = [f"{row.check}: {f.what} | {f.where}" for row in results for f in row.findings]
    return "\n".join(said + [f"{row.check} failed: {row.error}" for row in results if row.error])


def test_a_clean_copy_is_clean(victim: Victim) -> None:
    results = victim.look(victim.attacked()[1])
    assert not lines(results)


def test_a_table_of_functions_in_writable_data_has_to_name_certified_ones(victim: Victim) -> None:
    """It lies in the data of the image, and the file leads there: only what it names is foreign."""
    attacked, subject = victim.attacked()
    guest = attacked.guest
    linear = LinearMap.of(guest)
    files, at = Slabs.of(linear).objects("filp_cachep"), guest.layout.offset("file", "f_op")
    tables = linear.words(files, at)
    file = int(files[np.flatnonzero(tables == np.uint64(guest.symbol("socket_file_ops")))[0]])
    copy, size = guest.symbol("init_stack"), guest.layout.size("file_operations")
    attacked.poke(copy, guest.read(guest.symbol("socket_file_ops"), size))
    attacked.word(file + at, copy)
    results = victim.look(subject)
    assert not lines(results)  # the very same functions are certified ones
    attacked.word(copy + guest.layout.offset("file_operations", "read_iter"), copy + size)
    (found, *_) = tampered(victim.look(subject), Check.HOOKS)
    assert "operations of a file (f_op): read_iter is" in found.what
