# SPDX-License-Identifier: GPL-2.0-or-later
"""A running FS-VM seen from outside: its live patch, and the policy that it enforces, clean and tampered with."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fs_rig import scenario
from looks import Trusted, findings, lines
from seen_vm import Seen, boot_seen

from vinci.introspect.selinux import SelinuxWatch


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return scenario.policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def files_server(trusted: Trusted, runner: asyncio.Runner, policy: bytes) -> Iterator[Seen]:
    folder = Path(tempfile.mkdtemp(prefix="vinci-seen-", dir="/dev/shm"))
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(256 << 20)
    given = {"policy": policy, "shares": scenario.table()}
    rig, seen = boot_seen(runner, trusted.images, trusted.profile, folder, "FS", files=given, disk=disk)
    yield seen
    runner.run(rig.close())


def test_a_file_server_with_its_live_patch_and_policy_is_clean(
    files_server: Seen, trusted: Trusted, policy: bytes
) -> None:
    watch = SelinuxWatch([policy])
    for _ in range(20):
        found = findings(files_server.guest, trusted, trusted.service)
        found += watch.check(files_server.guest).findings
        assert not found, lines(found)


def test_selinux_switched_off_in_memory_is_seen(files_server: Seen, policy: bytes) -> None:
    watch = SelinuxWatch([policy])
    before = files_server.poke(files_server.guest.symbol("selinux_state"), b"\0")
    files_server.guest.begin()
    found = watch.check(files_server.guest).findings
    files_server.poke(files_server.guest.symbol("selinux_state"), before)
    assert [finding.what for finding in found] == ["SELinux does not enforce"]


def test_a_rule_added_in_memory_and_a_replaced_policy_are_seen(
    files_server: Seen, policy: bytes, tmp_path: Path
) -> None:
    guest, watch = files_server.guest, SelinuxWatch([policy])
    guest.begin()
    assert not watch.check(guest).findings
    rules = guest.u64(guest.symbol("selinux_state") + guest.layout.offset("selinux_state", "policy"))
    rules += guest.layout.offset("selinux_policy", "policydb") + guest.layout.offset("policydb", "te_avtab")
    buckets = guest.u64(rules)
    node = next(filter(None, (guest.u64(buckets + 8 * number) for number in range(1000))))
    before = files_server.poke(node + guest.layout.offset("avtab_node", "datum"), b"\xff\xff\xff\xff")
    guest.begin()
    (found,) = watch.check(guest).findings
    files_server.poke(node + guest.layout.offset("avtab_node", "datum"), before)
    assert "access rules: 1 added" in found.what
    guest.begin()
    assert not watch.check(guest).findings
    other = scenario.policy(tmp_path, scenario.without("prescriptions", "nurses"))
    files_server.run(files_server.machine.ok("/usr/lib/vinci/fs-policy", other))
    guest.begin()
    assert any("the policy in force is not the trusted one" in finding.what for finding in watch.check(guest).findings)
    assert not SelinuxWatch([policy, other]).check(guest).findings
