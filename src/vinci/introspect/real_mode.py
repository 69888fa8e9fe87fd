# SPDX-License-Identifier: GPL-2.0-or-later
"""The real-mode trampoline: the first code that a processor runs, below 1 MiB (arch/x86/realmode/init.c)."""

from __future__ import annotations

from functools import lru_cache

from vinci.introspect.guest import Guest
from vinci.introspect.memory import PAGE_SIZE, Unreadable
from vinci.introspect.profile import Profile

_LIMIT = 1 << 20


def real_mode(guest: Guest, runs: dict[int, int]) -> list[int]:
    """Which of the runs of executable pages (size by start) hold the image's trampoline, byte for byte."""
    found = []
    for start, size in runs.items():
        try:
            physical = guest.physical(start)
        except Unreadable:
            continue
        if physical < _LIMIT and _text(guest.profile, physical, size) == guest.read(start, size):
            found.append(start)
    return found


@lru_cache(maxsize=64)
def _text(profile: Profile, physical: int, size: int) -> bytes:
    """The text part of `real_mode_blob`, relocated so that it begins at a physical address; nothing if it cannot."""
    symbols, elf = profile.symbols, profile.elf
    start = symbols["real_mode_blob"]
    blob = bytearray(elf.at(start, symbols["real_mode_blob_end"] - start))
    text = int.from_bytes(blob[:4], "little")  # struct real_mode_header: text_start, ro_end
    end = int.from_bytes(blob[4:8], "little")
    base = physical - text
    if text % PAGE_SIZE or not base >= 0:
        return b""
    table = symbols["real_mode_relocs"]

    def words(at: int) -> list[int]:
        count = int.from_bytes(elf.at(at, 4), "little")
        raw = elf.at(at + 4, 4 * count)
        return [int.from_bytes(raw[n : n + 4], "little") for n in range(0, 4 * count, 4)]

    segments = words(table)
    for offset in segments:
        blob[offset : offset + 2] = (base >> 4 & 0xFFFF).to_bytes(2, "little")
    for offset in words(table + 4 + 4 * len(segments)):
        value = int.from_bytes(blob[offset : offset + 4], "little") + base
        blob[offset : offset + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(blob[text:end]).ljust(size, b"\0") if end - text <= size else b""
