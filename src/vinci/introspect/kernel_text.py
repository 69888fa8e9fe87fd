# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's text and read-only data, every byte explained: the trusted image's, or one that the kernel itself made.

Explaining takes a few tenths of a second. What was explained once is remembered by its digest; while that stays the
same, a look costs only the hashing. Nothing of a guest's memory is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from blake3 import blake3

from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.guest import Guest
from vinci.introspect.livepatch import Livepatch
from vinci.introspect.memory import PAGE_SIZE, Bytes
from vinci.introspect.profile import Profile
from vinci.introspect.sampling import MAX_FINDINGS, Sample, check_by_samples
from vinci.introspect.sites import Allowed, Offsets, unexplained

_OPTIONS = b"!cmt,!mbmtotal,!mbmlocal,!l3cat"
"""Of the resctrl driver (arch/x86/kernel/cpu/resctrl/core.c), which cuts it in place at its commas on Skylake."""
_CONTEXT = 8
"""Differing bytes closer than that are one finding."""
_CHUNKS = "chunks of kernel text"
_CHUNK = 64 * 1024
"""Text of which a chunk has changed is explained there anew, and not as a whole."""
_LONGEST_SITE = 32
"""Bytes of a patch site: half of what is looked at beside a chunk, for its sites that reach beyond it."""


def text_end(profile: Profile) -> int:
    """The link address at which executable pages of text end; the image holds zeros behind `_etext`."""
    return -(-profile.symbols["_etext"] // PAGE_SIZE) * PAGE_SIZE


def check_text(guest: Guest) -> CheckResult:
    """Every byte of the text's pages: relocated image, or a patch site with an allowed content."""
    profile = guest.profile
    start, end = profile.start, text_end(profile)

    def explain(seen: Bytes) -> Offsets:
        parts = changed_parts(seen, guest.verified.get(_CHUNKS))
        offsets = [_explained(seen, first, last, guest) for first, last in parts]
        found = np.concatenate([np.zeros(0, np.int64), *offsets])
        found = unpatched(Livepatch(guest), guest.slid(start), seen, found) if len(found) else found
        if not len(found):
            guest.verified[_CHUNKS] = _digests(seen)
        return found

    return check_by_samples(Check.TEXT, guest, lambda: _sample(guest, Check.TEXT, start, end, explain))


def changed_parts(seen: Bytes, known: bytes | None) -> list[tuple[int, int]]:
    """Start and end of each run of chunks that are not those of which digests are known; all when none are."""
    if known is None:
        return [(0, len(seen))]
    pairs = zip(_each(_digests(seen)), _each(known), strict=True)
    changed = [number * _CHUNK for number, (now, before) in enumerate(pairs) if now != before]
    parts: list[tuple[int, int]] = []
    for first in changed:
        begin = parts.pop()[0] if parts and parts[-1][1] == first else first
        parts.append((begin, min(first + _CHUNK, len(seen))))
    return parts


def _digests(code: Bytes) -> bytes:
    return b"".join(blake3(code[at : at + _CHUNK].data).digest() for at in range(0, len(code), _CHUNK))


def _each(digests: bytes) -> list[bytes]:
    return [digests[at : at + 32] for at in range(0, len(digests), 32)]


def _explained(seen: Bytes, first: int, last: int, guest: Guest) -> Offsets:
    """Offsets of bytes in a part that the image and its patch sites do not explain.

    Bytes beside it count as well that are of one site with bytes in it.
    """
    profile = guest.profile
    begin, end = max(first - 2 * _LONGEST_SITE, 0), min(last + 2 * _LONGEST_SITE, len(seen))
    sites = []
    for rows in profile.allowed:
        length = rows.content.shape[1]
        if length > _LONGEST_SITE:
            raise ValueError(f"a patch site of {length} bytes")
        within = (rows.at >= begin) & (rows.at <= end - length)
        sites.append(Allowed(rows.at[within] - begin, rows.content[within]))
    expected = profile.relocated(profile.start + begin, profile.start + end, guest.slide)
    found = unexplained(seen[begin:end], expected, sites) + begin
    lower = begin + _LONGEST_SITE if begin else 0
    upper = end - _LONGEST_SITE if end < len(seen) else end
    return found[(found >= lower) & (found < upper)]


def unpatched(livepatch: Livepatch, base: int, seen: Bytes, offsets: Offsets) -> Offsets:
    """Those of the offsets that our livepatch does not explain either; `base` is the address of what was seen."""
    places = np.zeros(len(seen), np.bool_)
    places[offsets] = True
    for address, content in livepatch.allowed():
        at = address - base
        if 0 <= at <= len(seen) - len(content) and seen[at : at + len(content)].tobytes() == content:
            places[at : at + len(content)] = False
    return np.flatnonzero(places)


def check_rodata(guest: Guest) -> CheckResult:
    """Every byte of the read-only data; of what is made read-only only after boot, the tables of patch sites.

    The rest of that part is taken as it is at the first look, and has to stay so: no kernel changes it afterwards.
    """
    profile, symbols = guest.profile, guest.profile.symbols
    start, end = symbols["__start_rodata"], profile.read_only_end
    late = slice(symbols["__start_ro_after_init"] - start, symbols["__end_ro_after_init"] - start)

    def explain(seen: Bytes) -> Offsets:
        expected = profile.relocated(start, end, guest.slide)
        changed = _changed_late(guest, start, seen, expected)
        expected[late] = seen[late]
        return np.append(unexplained(seen, expected, (_options(expected),)), changed)

    def sample() -> Sample:
        found = _sample(guest, Check.RODATA, start, end, explain)
        _mapped(guest, start, symbols["__end_rodata"], found)
        return found

    return check_by_samples(Check.RODATA, guest, sample)


def _mapped(guest: Guest, start: int, end: int, sample: Sample) -> None:
    """Its pages are mapped where the image lies, read-only. (The text's are looked at with all executable ones.)"""
    pages = guest.mappings(guest.slid(start), guest.slid(end), max_tables=64)
    expected = pages.virtual - np.uint64(guest.slid(guest.profile.start)) + np.uint64(guest.physical_base)
    for wrong, what in ((pages.physical != expected, "mapped elsewhere"), (pages.writable, "writable")):
        for address in pages.virtual[wrong].tolist()[:1]:
            count = np.count_nonzero(wrong)
            where = guest.describe(address)
            sample.add((what, address), Check.RODATA, f"{count} pages of read-only data are {what}", where)


_TABLES = (
    ("__start___jump_table", "__stop___jump_table", np.dtype([("code", "<i4"), ("target", "<i4"), ("key", "<i8")])),
    ("__start_static_call_sites", "__stop_static_call_sites", np.dtype([("code", "<i4"), ("key", "<i4")])),
)
"""Sorted by the kernel at boot; each member is relative to its own place, bit 1 of the key is set for init code."""


def _changed_late(guest: Guest, base: int, seen: Bytes, expected: Bytes) -> Offsets:
    """Where the part that is read-only after boot is not what it was, or a table in it is not the image's."""
    symbols = guest.profile.symbols
    changed = []
    for first, last, record in _TABLES:
        part = slice(symbols[first] - base, symbols[last] - base)
        if not np.array_equal(_absolute(seen[part], record), _absolute(expected[part], record)):
            changed.append(part.start)
    late = slice(symbols["__start_ro_after_init"] - base, symbols["__end_ro_after_init"] - base)
    digest = blake3(seen[late].data).digest()
    if guest.verified.setdefault("ro_after_init", digest) != digest:
        changed.append(late.start)
    return np.array(changed, np.int64)


def _absolute(table: Bytes, record: np.dtype[np.void]) -> Offsets:
    """The table's records, sorted, their members counted from the table's start."""
    rows = np.ascontiguousarray(table).view(record)
    at = np.arange(len(rows)) * record.itemsize
    names = record.names or ()
    columns = [rows[name].astype(np.int64) + at + record.fields[name][1] for name in names]  # type: ignore[index]
    columns[-1] &= ~2
    return np.array(columns)[:, np.lexsort(columns)]


def _sample(guest: Guest, check: Check, start: int, end: int, explain: Callable[[Bytes], Offsets]) -> Sample:
    sample = Sample(examined=end - start)
    view = guest.image(start, end - start)
    if blake3(view.data).digest() == guest.verified.get(check):
        return sample
    seen = view.copy()  # explained is a copy that the guest cannot change any more
    offsets = explain(seen)
    if not len(offsets):
        guest.verified[check] = blake3(seen.data).digest()
    for first in _clusters(offsets)[: MAX_FINDINGS + 1]:
        where = guest.profile.symbols.describe(start + first)
        sample.add(
            first, check, f"bytes that nothing explains: {seen[first : first + _CONTEXT].tobytes().hex()}", where
        )
    return sample


def _clusters(offsets: Offsets) -> list[int]:
    """The first offset of each group of near ones."""
    if not len(offsets):
        return []
    ordered = np.sort(offsets)
    return [int(first) for first in ordered[np.append(True, np.diff(ordered) > _CONTEXT)]]


def _options(expected: Bytes) -> Allowed:
    at = expected.tobytes().find(_OPTIONS)
    commas = [at + n for n, letter in enumerate(_OPTIONS) if letter == ord(",")] if at >= 0 else []
    return Allowed(np.array(commas, np.int64), np.zeros((len(commas), 1), np.uint8))
