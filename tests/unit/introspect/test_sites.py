# SPDX-License-Identifier: GPL-2.0-or-later
"""Patch sites in a few bytes of code: what the kernel would make of them is allowed, and nothing near it is."""

from __future__ import annotations

import numpy as np
import pytest

from vinci.introspect import sites
from vinci.introspect.memory import Words
from vinci.introspect.sites import CALL, JMP, NOPS, RET5, XOR5RAX, Builder, Code, Rules, Tables, branch, nops

BASE = 0xFFFFFFFF81000000
SIZE = 0x100
REPLACEMENT = BASE + SIZE + 0x40
FUNCTION, OTHER, THUNK, RETURN_THUNK, ZERO = (BASE + 0x5000 + 0x100 * n for n in range(5))
KEY, NULL_KEY, ZERO_KEY = 0x1000, 0x2000, 0x3000
NONE: Words = np.zeros(0, np.uint64)
TABLES = {
    "returns": NONE, "mcounts": NONE, "retpolines": NONE, "locks": NONE,
    "jumps": (NONE, NONE), "static_calls": (NONE, NONE), "paravirt": (), "alternatives": (),
}  # fmt: skip
RULES = Rules(
    functions_of={KEY: [FUNCTION], NULL_KEY: [0], ZERO_KEY: [ZERO, OTHER]}.__getitem__,
    operations={0: [FUNCTION], 1: [0]}.__getitem__,
    thunks={THUNK: 0, THUNK + 32: 8},
    return_thunks=(RETURN_THUNK,),
    return_zero=ZERO,
)


def one(address: int) -> Words:
    return np.array([address], np.uint64)


def allowed(at: int, before: bytes, after: bytes, outside: bytes = b"", **tables: object) -> bool:
    """Whether the kernel may turn `before` at offset `at` into `after`; `outside` is at REPLACEMENT."""
    image = np.full(SIZE + 0x80, 0xCC, np.uint8)
    image[at : at + len(before)] = np.frombuffer(before, np.uint8)
    image[SIZE + 0x40 : SIZE + 0x40 + len(outside)] = np.frombuffer(outside, np.uint8)
    rows = Builder(Code(BASE, image), BASE, BASE + SIZE, RULES).build(Tables(**{**TABLES, **tables}))
    seen = image[:SIZE].copy()
    seen[at : at + len(after)] = np.frombuffer(after, np.uint8)
    return not len(sites.unexplained(seen, image[:SIZE], rows))


AT = 0x20
PLACE = BASE + AT
E8, E9 = (branch(opcode, PLACE, THUNK) for opcode in (CALL, JMP))


@pytest.mark.parametrize(
    ("tables", "before", "after", "wrong"),
    [
        ({"returns": one(PLACE)}, branch(JMP, PLACE, FUNCTION), RET5, RET5[:4] + b"\x90"),
        ({"returns": one(PLACE)}, b"\xe9123", branch(JMP, PLACE, RETURN_THUNK), branch(JMP, PLACE, OTHER)),
        ({"mcounts": one(PLACE)}, branch(CALL, PLACE, FUNCTION), NOPS[5], branch(CALL, PLACE, OTHER)),
        ({"locks": one(PLACE)}, b"\xf0", b"\x3e", b"\x90"),
        ({"retpolines": one(PLACE)}, E8, b"\xff\xd0\x0f\x1f\x00", b"\xff\xd1\x0f\x1f\x00"),
        ({"retpolines": one(PLACE)}, E9, b"\xff\xe0\xcc\x66\x90", b"\xff\xd0\xcc\x66\x90"),
        ({"retpolines": one(PLACE)}, E8, b"\x0f\xae\xe8\xff\xd0", b"\x0f\xae\xe9\xff\xd0"),
        (
            {"retpolines": one(PLACE)},
            b"\x2e" + branch(CALL, PLACE + 1, THUNK + 32),
            b"\x41\xff\xd0\x0f\x1f\x00",
            b"\xff\xd0\x0f\x1f\x40\x00",
        ),
        ({"jumps": (one(PLACE), one(PLACE + 9))}, NOPS[2], b"\xeb\x07", b"\xeb\x08"),
        ({"jumps": (one(PLACE), one(BASE))}, NOPS[5], branch(JMP, PLACE, BASE), branch(JMP, PLACE, BASE + 1)),
        ({"jumps": (one(PLACE), one(BASE))}, branch(JMP, PLACE, BASE), NOPS[5], nops(2) + nops(3)),
        ({"static_calls": (one(PLACE), one(KEY))}, E8, branch(CALL, PLACE, FUNCTION), branch(CALL, PLACE, OTHER)),
        ({"static_calls": (one(PLACE), one(KEY | 1))}, E9, branch(JMP, PLACE, FUNCTION), RET5),
        ({"static_calls": (one(PLACE), one(NULL_KEY))}, E8, NOPS[5], RET5),
        ({"static_calls": (one(PLACE), one(NULL_KEY | 1))}, E9, RET5, NOPS[5]),
        ({"static_calls": (one(PLACE), one(ZERO_KEY))}, E8, XOR5RAX, branch(CALL, PLACE, FUNCTION)),
        ({"static_calls": (one(PLACE), one(ZERO_KEY | 1))}, E9, branch(JMP, PLACE, ZERO), XOR5RAX),
        ({"paravirt": ((PLACE, 0, 7),)}, b"\xff" * 7, branch(CALL, PLACE, FUNCTION) + NOPS[2], nops(7)),
        ({"paravirt": ((PLACE, 1, 7),)}, b"\xff" * 7, nops(7), branch(CALL, PLACE, FUNCTION) + NOPS[2]),
    ],
)
def test_exactly_the_kernels_own_changes_are_allowed(
    tables: dict[str, object], before: bytes, after: bytes, wrong: bytes
) -> None:
    assert allowed(AT, before, before, **tables)
    assert allowed(AT, before, after, **tables)
    assert not allowed(AT, before, wrong, **tables)
    assert not allowed(AT + 1, before, after, **tables)


def test_an_alternative_is_there_as_a_whole_or_not_at_all() -> None:
    site = {"alternatives": ((PLACE, REPLACEMENT, 1, 6, 3),)}
    before = b"\x31\xc0" + b"\x90" * 4
    assert allowed(AT, before, b"\x0f\x01\xca" + NOPS[3], b"\x0f\x01\xca", **site)
    assert allowed(AT, before, b"\x31\xc0" + NOPS[4], b"\x0f\x01\xca", **site)  # not applied: only the nops made long
    assert not allowed(AT, before, b"\x0f\xc0" + NOPS[4], b"\x0f\x01\xca", **site)


def test_branches_of_an_alternative_lead_where_they_led() -> None:
    site = {"alternatives": ((PLACE, REPLACEMENT, 1, 5, 5),)}
    for opcode, target, after in (
        (CALL, FUNCTION, branch(CALL, PLACE, FUNCTION)),
        (JMP, PLACE + 0x60, b"\xeb\x5e" + NOPS[3]),  # short when forward
        (JMP, BASE, branch(JMP, PLACE, BASE)),  # but not backward
    ):
        source = branch(opcode, REPLACEMENT, target)
        assert allowed(AT, b"\x90" * 5, after, source, **site)
        assert not allowed(AT, b"\x90" * 5, source, source, **site)


def test_sites_inside_a_replacement_are_patched_before_it_is_copied() -> None:
    tables = {"alternatives": ((PLACE, REPLACEMENT, 1, 7, 7),), "returns": one(REPLACEMENT + 2)}
    source = b"\x31\xc0" + branch(JMP, REPLACEMENT + 2, FUNCTION)
    assert allowed(AT, b"\x90" * 7, b"\x31\xc0" + RET5, source, **tables)
    assert not allowed(AT, b"\x90" * 7, b"\x31\xc0" + NOPS[5], source, **tables)
