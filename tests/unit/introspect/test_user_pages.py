# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of programs that change between two reads of one look."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.files import IMAGE_FILE_SYSTEM, GuestFile
from vinci.introspect.guest import Guest
from vinci.introspect.memory import PAGE_SIZE
from vinci.introspect.user_pages import _not_the_images, _Owners

GOOD, EVIL = b"\x90" * PAGE_SIZE, b"\xcc" * PAGE_SIZE
CERTIFIED = {hashlib.sha256(GOOD).hexdigest(): frozenset({("/usr/bin/x", 0)})}
OWNERS = _Owners((GuestFile(IMAGE_FILE_SYSTEM, "/usr/bin/x"),), np.zeros(1, np.int64), np.zeros(1, np.uint64))
FRAMES = np.array([0x1000], np.uint64)


@dataclass
class Changing:
    """One page of memory that holds something else each time it is read."""

    contents: list[bytes]
    verified: dict[str, bytes] = field(default_factory=dict)

    @property
    def memory(self) -> Any:
        return SimpleNamespace(tables=self)

    def __getitem__(self, places: object) -> np.ndarray[Any, Any]:
        return np.frombuffer(self.contents.pop(0), np.uint64).reshape(1, -1).copy()


def look(guest: Changing, *contents: bytes) -> list[str]:
    """What a look says that reads these contents, one after the other."""
    guest.contents = list(contents)
    found = _not_the_images(
        cast(Guest, guest), FRAMES, np.zeros(1, np.int64), OWNERS, CertifiedFiles(CERTIFIED, frozenset())
    )
    return [problem.what for problem in found]


def test_a_page_of_the_image_is_judged_once_and_then_told_by_its_digest() -> None:
    guest = Changing([])
    assert not look(guest, GOOD, GOOD)
    assert not look(guest, GOOD)  # a second read would fail: there is no more
    assert look(guest, EVIL, EVIL) == ["code that is not the image's"]


@pytest.mark.parametrize("first", [(EVIL, GOOD), (GOOD, GOOD)])
def test_what_was_shown_once_and_not_judged_is_not_trusted(first: tuple[bytes, bytes]) -> None:
    """Evil bytes under the first digest and good ones for the judge must not make the evil ones known as good."""
    guest = Changing([])
    assert not look(guest, *first)
    assert look(guest, EVIL, EVIL)


def test_another_owner_of_the_same_bytes_is_judged_anew() -> None:
    guest = Changing([])
    assert not look(guest, GOOD, GOOD)
    guest.contents = [GOOD, GOOD]
    elsewhere = _Owners((GuestFile("tmpfs", "/usr/bin/x"),), OWNERS.which, OWNERS.numbers)
    certified = CertifiedFiles(CERTIFIED, frozenset())
    assert list(_not_the_images(cast(Guest, guest), FRAMES, np.zeros(1, np.int64), elsewhere, certified))
