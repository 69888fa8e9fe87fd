# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that the kernel's BPF compiler wrote (arch/x86/net/bpf_jit_comp.c), in packs of executable memory.

A pack (struct bpf_prog_pack) holds programs in chunks of 64 bytes, each behind its size; all the rest is int3. The
code of a program depends on nothing but the program and where the kernel lies: with the calls of helpers named, it has
a digest that is the same in every guest of this kernel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from blake3 import blake3

from vinci.introspect.filters import filter_programs
from vinci.introspect.findings import Check, Severity
from vinci.introspect.guest import Guest
from vinci.introspect.memory import Implausible
from vinci.introspect.sampling import Sample

FREED_SECONDS = 0.5
"""So long a program may lie there without a filter that leads to it: it was just compiled, or waits to be freed."""
KNOWN_PROGRAMS = {
    "aab2d5ba5219d217": "ptp_classifier_init: tells PTP packets, compiled at every boot",
}
"""By digest of their code (`normalised`)."""
MAX_PACKS = 64
_CHUNK = 64
_INT3 = 0xCC
_CALL = 0xE8


def explain_packs(guest: Guest, runs: dict[int, int], sample: Sample, sandboxed: frozenset[str] | None) -> list[int]:
    """Which of the runs of executable pages (size by start) are packs; what is wrong inside them becomes a finding.

    Args:
        sandboxed: the programs whose filters may be among them (`filter_programs`).
    """
    explained = []
    for start in _packs(guest):
        size = runs.get(start)
        if size is None:
            continue
        explained.append(start)
        sample.examined += 1
        view = guest.in_place(start, size)
        if view is not None and blake3(view.data).digest() == guest.verified.get(f"pack {start:x}"):
            continue
        content = guest.read(start, size)  # explained is a copy that the guest cannot change any more
        digest = blake3(content).digest()
        if guest.verified.get(f"pack {start:x}") != digest and _explain(guest, start, content, sample, sandboxed):
            guest.verified[f"pack {start:x}"] = digest
    return explained


def _packs(guest: Guest) -> Iterator[int]:
    """Where the packs begin, from the kernel's `pack_list`."""
    head = guest.symbol("pack_list")
    pointer = guest.layout.offset("bpf_prog_pack", "ptr")
    node = guest.u64(head)
    for _ in range(MAX_PACKS):
        if node == head:
            return
        yield guest.u64(node + pointer)
        node = guest.u64(node)
    raise Implausible("the list of BPF packs does not end")


def _explain(guest: Guest, start: int, content: bytes, sample: Sample, sandboxed: frozenset[str] | None) -> bool:
    """Whether all programs of a pack are known ones, and nothing is between them.

    An unknown one is a note when a filter leads to it: of what a compiled program does nothing can be said.
    """
    filters: set[int] | None = None
    clean = True
    for offset, size in programs(content):
        where = f"BPF pack {start:#x}+{offset:#x}"
        if size == 0:
            sample.add((start, offset), Check.EXECUTABLE_PAGES, "code outside every program of a BPF pack", where)
            return False
        code = content[offset + 4 : offset + size].strip(bytes([_INT3]))
        address = start + content.index(code, offset + 4)
        digest = hashlib.sha256(normalised(guest, code, address)).hexdigest()[:16]
        if digest not in KNOWN_PROGRAMS:
            filters = filter_programs(guest, sandboxed) if filters is None else filters
            what = f"a compiled BPF program of {len(code)} bytes that is not known ({digest})"
            severity = Severity.NOTE
            if address not in filters and guest.passing.lasts((start, offset, digest), seconds=FREED_SECONDS):
                what, severity = f"{what} and that no filter leads to", Severity.TAMPERED
            sample.add((start, offset, severity), Check.EXECUTABLE_PAGES, what, where, severity)
            clean = False
    return clean


def programs(content: bytes) -> Iterator[tuple[int, int]]:
    """Offset and size of each program of a pack; size 0 for what is none, and no further."""
    used = np.flatnonzero(np.frombuffer(content, np.uint8) != _INT3)
    offset = 0
    while True:
        following = np.searchsorted(used, offset)
        if following == len(used):
            return
        offset = int(used[following]) // _CHUNK * _CHUNK
        size = int.from_bytes(content[offset : offset + 4], "little")
        if used[following] >= offset + 4 or size <= 4 or offset + size > len(content):
            yield offset, 0
            return
        yield offset, size
        offset += -(-size // _CHUNK) * _CHUNK


def normalised(guest: Guest, code: bytes, address: int) -> bytes:
    """The code with the distance in each call of a kernel function replaced by that function's name."""
    profile = guest.profile
    at, parts, begin = 0, [], 0
    while (at := code.find(_CALL, at)) >= 0 and at + 5 <= len(code):
        distance = int.from_bytes(code[at + 1 : at + 5], "little", signed=True)
        link = address + at + 5 + distance - guest.slide
        name, _, into = profile.symbols.describe(link).partition("+")
        if profile.start <= link < profile.end and into == "0x0":
            parts += [code[begin : at + 1], f"<{name}>".encode()]
            begin = at = at + 5
        else:
            at += 1
    return b"".join([*parts, code[begin:]])
