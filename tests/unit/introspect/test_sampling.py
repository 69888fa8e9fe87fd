# SPDX-License-Identifier: GPL-2.0-or-later
"""Which findings of several samples count."""

from __future__ import annotations

from itertools import chain, repeat

from synthetic import guest

from vinci.introspect.findings import Check, Severity
from vinci.introspect.memory import Unreadable
from vinci.introspect.sampling import MAX_FINDINGS, SAMPLES, UNSETTLED_LOOKS, Sample, check_by_samples


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
    assert whats(sample("a"), sample("b"), sample()) == ([], 3)


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


def looks(*keys: str, running: int = UNSETTLED_LOOKS) -> list[list[str]]:
    """What each of several looks running finds while every sample finds another one of these."""
    seen, number = guest()[0], iter(range(10**6))

    def take() -> Sample:
        key = keys[next(number) % len(keys)]
        return sample(key) if key else sample()

    return [
        [finding.what for finding in check_by_samples(Check.PROCESSES, seen, take, lambda _: None).findings]
        for _ in range(running)
    ]


def test_tampering_that_moves_with_every_sample_is_found_after_some_looks() -> None:
    *before, last = looks("a", "b")
    assert before == [[]] * (UNSETTLED_LOOKS - 1)
    assert "never the same" in last[0]
    assert last[1] in ("a is hidden", "b is hidden")


def test_a_clean_sample_now_and_then_ends_the_count() -> None:
    assert looks("a", "b", *"cdefghi", "", running=40) == [[]] * 40


def test_what_is_found_late_in_a_look_counts_too() -> None:
    assert whats(sample("a"), sample("b"), sample("c")) == (["c is hidden"], SAMPLES + 2)


def test_findings_of_one_place_are_all_told() -> None:
    taken = sample()
    for what in ("one", "two"):
        taken.add("chain", Check.HOOKS, what, "here")
    assert whats(taken)[0] == ["one", "two"]
