# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of which only a part has changed: what is found by looking at that part is what the whole text shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vinci.introspect import kernel_text
from vinci.introspect.guest import Guest
from vinci.introspect.kernel_text import _digests, _explained, changed_parts
from vinci.introspect.memory import Bytes
from vinci.introspect.sites import Allowed, unexplained

SIZE, CHUNK, LONGEST = 300, 64, 8


@dataclass
class Text:
    """A profile of a text of zeros, and a guest that runs it."""

    allowed: tuple[Allowed, ...]
    start = 0x1000
    slide = 0

    @property
    def profile(self) -> Text:
        return self

    def relocated(self, start: int, end: int, _slide: int) -> Bytes:
        return np.zeros(end - start, np.uint8)


sites = st.lists(st.tuples(st.integers(0, SIZE - LONGEST), st.integers(1, LONGEST)), max_size=12)
changes = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 255)), max_size=4)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_text, "_CHUNK", CHUNK)
    monkeypatch.setattr(kernel_text, "_LONGEST_SITE", LONGEST)


@settings(max_examples=400, deadline=None)
@given(sites, st.data())
def test_parts_show_what_the_whole_does(places: list[tuple[int, int]], data: st.DataObject) -> None:
    by_length = {length: [at for at, size in places if size == length] for _, length in places}
    rows = tuple(
        Allowed(np.array(at, np.int64), np.full((len(at), length), length, np.uint8))
        for length, at in by_length.items()
    )
    guest = cast(Guest, Text(rows))
    seen = np.zeros(SIZE, np.uint8)
    for at, length in data.draw(st.lists(st.sampled_from(places), unique=True)) if places else ():
        seen[at : at + length] = length  # sites that overlap may leave a part of one
    if len(unexplained(seen, np.zeros(SIZE, np.uint8), rows)):
        return
    known = _digests(seen)
    for at, value in data.draw(changes):
        seen[at] = value
    for at, length in data.draw(st.lists(st.sampled_from(places), max_size=3)) if places else ():
        seen[at : at + length] = data.draw(st.sampled_from((0, length)))
    whole = unexplained(seen, np.zeros(SIZE, np.uint8), rows)
    found = [_explained(seen, first, last, guest) for first, last in changed_parts(seen, known)]
    assert sorted({int(offset) for part in found for offset in part}) == whole.tolist()


def test_half_a_site_taken_back_is_found_across_the_edge_of_a_chunk() -> None:
    guest = cast(Guest, Text((Allowed(np.array([CHUNK - 2], np.int64), np.full((1, 4), 7, np.uint8)),)))
    seen = np.zeros(SIZE, np.uint8)
    seen[CHUNK - 2 : CHUNK + 2] = 7
    known = _digests(seen)
    seen[CHUNK : CHUNK + 2] = 0  # in the second chunk it is as the image has it; the rest lies in the first
    ((first, last),) = changed_parts(seen, known)
    assert (first, last) == (CHUNK, 2 * CHUNK)
    assert _explained(seen, first, last, guest).tolist() == [CHUNK - 2, CHUNK - 1]


def test_all_is_a_part_when_nothing_is_known_and_none_when_nothing_changed() -> None:
    seen = np.zeros(SIZE, np.uint8)
    assert changed_parts(seen, None) == [(0, SIZE)]
    assert changed_parts(seen, _digests(seen)) == []
    seen[[0, CHUNK, SIZE - 1]] = 1
    assert changed_parts(seen, _digests(np.zeros(SIZE, np.uint8))) == [(0, 2 * CHUNK), (4 * CHUNK, SIZE)]


def test_a_site_that_is_longer_than_what_is_looked_at_beside_a_chunk_is_refused() -> None:
    rows = Allowed(np.array([0], np.int64), np.zeros((1, LONGEST + 1), np.uint8))
    with pytest.raises(ValueError, match="a patch site of 9 bytes"):
        _explained(np.zeros(SIZE, np.uint8), 0, SIZE, cast(Guest, Text((rows,))))
