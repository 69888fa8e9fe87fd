# SPDX-License-Identifier: GPL-2.0-or-later
"""Packs of compiled BPF programs: what is a program in them and what is not."""

from __future__ import annotations

import struct

import pytest

from vinci.introspect.jit import programs

SIZE = 4096


def pack(*parts: tuple[int, bytes]) -> bytes:
    content = bytearray(b"\xcc" * SIZE)
    for offset, part in parts:
        content[offset : offset + len(part)] = part
    return bytes(content)


def program(size: int, code: bytes = b"\x55\xc3") -> bytes:
    return struct.pack("<I", size) + code.rjust(12, b"\xcc")


def test_programs_follow_each_other_in_chunks() -> None:
    content = pack((0, program(100)), (128, program(64)), (1024, program(0x1CC)))
    assert list(programs(content)) == [(0, 100), (128, 64), (1024, 0x1CC)]
    assert list(programs(pack())) == []


@pytest.mark.parametrize(
    "part",
    [
        (96, b"\x90"),  # behind a program, in no chunk of its own
        (512, b"\xcc\xcc\xcc\xcc\x90"),  # a chunk without a size
        (512, program(SIZE)),  # larger than what is left
        (512, program(0)),
        (512, program(3)),
        (SIZE - 1, b"\x90"),
    ],
)
def test_what_is_no_program_is_told(part: tuple[int, bytes]) -> None:
    found = list(programs(pack((0, program(64)), part)))
    assert found[0] == (0, 64)
    assert found[-1][1] == 0
