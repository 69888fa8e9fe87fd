# SPDX-License-Identifier: GPL-2.0-or-later
"""Which findings of several samples count."""

from __future__ import annotations

from itertools import chain, repeat

from synthetic import guest

from vinci.introspect.findings import Check, Severity
from vinci.introspect.memory import Unreadable
from vinci.introspect.sampling import MAX_FINDINGS, SAMPLES, Sample, check_by_samples


def sample(*keys: str, severity: Severity = Severity.TAMPERED) -> Sample:
    taken = Sample(examined=len(keys))
    for key in keys:
        taken.add(key, Check.PROCESSES, f"{key} is hidden", "here", severity)
    return taken


def whats(*samples: Sample | Unreadable) -> tuple[list[str], int]:
    """What is found of these samples (the last one lasts), and how many were taken."""
    coming = chain(samples, repeat(samples[-1]))
    pauses: list[float] = []

    def take() -> Sample:
        following = next(coming)
        if isinstance(following, Unreadable):
            raise following
        return following

    result = check_by_samples(Check.PROCESSES, guest()[0], take, pauses.append)
    return [finding.what for finding in result.findings], len(pauses) + 1


def test_what_all_samples_share_is_found() -> None:
    assert whats(sample("a", "b"), sample("b", "c"), sample("b")) == (["b is hidden"], SAMPLES)


def test_a_clean_sample_ends_it() -> None:
    assert whats(sample()) == ([], 1)
    assert whats(sample("a"), sample("b"), sample("a", "b")) == ([], 2)


def test_notes_need_no_second_sample() -> None:
    assert whats(sample("a", severity=Severity.NOTE)) == (["a is hidden"], 1)


def test_what_can_never_be_followed_is_a_finding_and_once_is_none() -> None:
    found, taken = whats(Unreadable("no RAM at 0x0"))
    assert taken == SAMPLES
    assert "cannot be followed: no RAM at 0x0" in found[0]
    assert whats(Unreadable("no RAM at 0x0"), sample()) == ([], 2)


def test_a_guest_cannot_flood_the_findings() -> None:
    found, _ = whats(sample(*map(str, range(MAX_FINDINGS + 50))))
    assert len(found) == MAX_FINDINGS + 1
    assert found[-1] == "50 further findings"
