# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures every (community, user, share, operation) from root in the user's APP-VM.

Root mounts each share itself, also those that the user has no right to, and then tries each operation with the
user's UID: what a compromised APP-VM can do is what counts, not what its login script offers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vinci.model.infrastructure import Infrastructure, Operation
from vinci.node.channel import Channel, ChannelError
from vinci.node.verification.checks import Check, Kind, Measured, yes_if
from vinci.policy.expected import MEASURED_OPERATIONS, expected_operations, is_homes

PROBE = ".vinci-verify"
"""A file in each share (and home) that exists for this, kept by the FS-VM's `fs-shares`."""
SECONDS = 120.0

_SCRIPT = Path(__file__).with_name("file_probe.py").read_bytes()


@dataclass(frozen=True, slots=True)
class FileSubject:
    """A user in an APP-VM, and where the shares lie: name -> `server:/path` (a home: the path of one user's)."""

    user: str
    community: str
    vm: str
    local_uid: int
    gid: int
    sources: tuple[tuple[str, str], ...]
    """Share or `share/owner` for a home, and its NFS source as seen from the community's VCN."""


async def measure_files(
    infrastructure: Infrastructure, subject: FileSubject, channel: Channel | None, reason: str = ""
) -> list[Check]:
    """Try all operations on all shares as one user. `reason`: why there is no channel to do it by."""
    measured = {}
    if channel is not None:
        words = " ".join(f"'{word}'" for pair in subject.sources for word in pair)
        command = f"python3 -IS - {subject.local_uid} {subject.gid} {words}"
        try:
            measured = _parse((await channel.check(command, _SCRIPT, SECONDS)).text)
        except ChannelError as error:
            reason = str(error)
    checks = []
    for name, _source in subject.sources:
        share, _, owner = name.partition("/")
        expected = expected_operations(infrastructure, subject.user, subject.community, share)
        if is_homes(infrastructure, share) and owner != subject.user:
            expected = frozenset()
        for operation in MEASURED_OPERATIONS:
            checks.append(
                Check(
                    kind=Kind.FILES,
                    subject=f"{subject.community}:{subject.user}",
                    target=name,
                    action=operation.value,
                    expected=yes_if(operation in expected),
                    measured=measured.get((name, operation), Measured.UNKNOWN),
                    reason=reason,
                )
            )
    return checks


def _parse(untrusted: str) -> dict[tuple[str, Operation], Measured]:
    found = {}
    for line in untrusted.splitlines()[:10_000]:
        fields = line.split("\t")
        if len(fields) != 1 + len(MEASURED_OPERATIONS):
            continue
        for operation, word in zip(MEASURED_OPERATIONS, fields[1:], strict=True):
            known = word in (Measured.YES, Measured.NO)
            found[fields[0], operation] = Measured(word) if known else Measured.UNKNOWN
    return found
