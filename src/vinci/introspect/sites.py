# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernel patches its own code, and with what exactly: the sites that a code image's tables name.

The kernel rewrites its text at boot and when a module is loaded (arch/x86/kernel/{alternative,static_call,jump_label,
ftrace,paravirt}.c). Each table of the image says where; from table and image follow the few contents that are allowed
there. `Allowed` rows hold them; a byte that differs from the image must lie in a row that matches as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vinci.introspect.memory import Bytes, Words

Offsets = npt.NDArray[np.int64]

NOPS = (
    b"",
    b"\x90",
    b"\x66\x90",
    b"\x0f\x1f\x00",
    b"\x0f\x1f\x40\x00",
    b"\x0f\x1f\x44\x00\x00",
    b"\x66\x0f\x1f\x44\x00\x00",
    b"\x0f\x1f\x80\x00\x00\x00\x00",
    b"\x0f\x1f\x84\x00\x00\x00\x00\x00",
)
"""x86_nops[]: the kernel's no-operation of each length."""
XOR5RAX = b"\x2e\x2e\x2e\x31\xc0"
"""What a call of __static_call_return0 becomes."""
RET5 = b"\xc3\xcc\xcc\xcc\xcc"
CALL, JMP, JMP8, JCC, INT3 = 0xE8, 0xE9, 0xEB, 0x0F, 0xCC


def nops(length: int) -> bytes:
    """add_nops(): as few no-operations as fill `length` bytes."""
    return NOPS[8] * (length // 8) + NOPS[length % 8]


def branch(opcode: int, address: int, target: int) -> bytes:
    """A five-byte call or jump at `address`."""
    return bytes([opcode]) + (target - address - 5 & 0xFFFFFFFF).to_bytes(4, "little")


def _branches(opcode: int, addresses: Words, target: int) -> Bytes:
    """The same for many addresses; shape (n, 5)."""
    content = np.empty((len(addresses), 5), np.uint8)
    content[:, 0] = opcode
    distances = (np.uint64(target - 5) - addresses).astype("<u4")
    content[:, 1:] = distances.view(np.uint8).reshape(-1, 4)
    return content


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of code as it is before the kernel patches it: relocated bytes from the address `base` on."""

    base: int
    content: Bytes

    def at(self, address: int, size: int) -> bytes:
        """The bytes at an address; fewer where the piece ends."""
        start = address - self.base
        return self.content[start : start + size].tobytes() if start >= 0 else b""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Contents of one length that a place may have: offset from the code's start, and bytes of shape (n, length)."""

    at: Offsets
    content: Bytes


@dataclass(frozen=True, slots=True)
class Rules:
    """What the tables alone do not say. Addresses are those of the code's own space.

    `functions_of(key)`: the functions that a static call of that key may lead to, 0 for none. `return_zero` is
    __static_call_return0, whose calls are written out. `operations(number)`: what that paravirt operation may be, 0 for
    a nop. `thunks`: registers by the address of their retpoline. `return_thunks`: where a return may be sent instead.
    """

    functions_of: Callable[[int], Iterable[int]]
    operations: Callable[[int], Iterable[int]]
    thunks: dict[int, int]
    return_thunks: tuple[int, ...]
    return_zero: int


@dataclass(frozen=True, slots=True)
class Tables:
    """The patch sites of a piece of code: structured arrays with absolute addresses. Empty where there is none."""

    returns: Words
    mcounts: Words
    retpolines: Words
    locks: Words
    jumps: tuple[Words, Words]
    static_calls: tuple[Words, Words]
    paravirt: Sequence[tuple[int, int, int]]
    alternatives: Sequence[tuple[int, int, int, int, int]]

    @classmethod
    def read(cls, section: Callable[[str], tuple[int, bytes]]) -> Tables:
        """From the raw tables; `section(name)` gives address and bytes, already relocated."""
        return cls(
            returns=_relative(*section(".return_sites")),
            mcounts=np.frombuffer(section("__mcount_loc")[1], np.uint64),
            retpolines=_relative(*section(".retpoline_sites")),
            locks=_relative(*section(".smp_locks")),
            jumps=pairs(*section("__jump_table"), 16),
            static_calls=pairs(*section(".static_call_sites"), 8),
            paravirt=[
                (int(i), int(t), int(n)) for i, t, n in np.frombuffer(section(".parainstructions")[1], _PARAVIRT)
            ],
            alternatives=list(alternatives(*section(".altinstructions"))),
        )


_PARAVIRT = np.dtype({"names": ["instr", "type", "len"], "formats": ["<u8", "u1", "u1"], "itemsize": 16})
_ALTERNATIVE = np.dtype([("instr", "<i4"), ("repl", "<i4"), ("cpuid", "<u2"), ("len", "u1"), ("repl_len", "u1")])


def _relative(address: int, raw: bytes) -> Words:
    """s32 entries, each relative to itself."""
    entries = np.frombuffer(raw, "<i4").astype(np.int64)
    return (np.arange(len(entries)) * 4 + entries).astype(np.uint64) + np.uint64(address)


def pairs(address: int, raw: bytes, stride: int) -> tuple[Words, Words]:
    """Records that begin with two such entries: jump_entry (code, target), static_call_site (address, key)."""
    entries = np.frombuffer(raw, "<i4").reshape(-1, stride // 4).astype(np.int64)
    at = np.arange(len(entries)) * stride
    return tuple(  # type: ignore[return-value]
        (at + 4 * column + entries[:, column]).astype(np.uint64) + np.uint64(address) for column in (0, 1)
    )


def alternatives(address: int, raw: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """The records of an `.altinstructions` table: place, replacement, feature, and the lengths of both."""
    for number, (instr, repl, cpuid, length, repl_length) in enumerate(np.frombuffer(raw, _ALTERNATIVE).tolist()):
        at = address + number * _ALTERNATIVE.itemsize
        yield at + instr, at + 4 + repl, cpuid, length, repl_length


class Builder:
    """Collects allowed contents for the part `[start, end)` of a piece of code."""

    def __init__(self, code: Code, start: int, end: int, rules: Rules) -> None:
        self.code, self.start, self.end, self.rules = code, start, end, rules
        self._rows: dict[int, list[tuple[Offsets, Bytes]]] = {}
        self._single: dict[tuple[int, bytes], None] = {}

    def build(self, tables: Tables) -> list[Allowed]:
        """All rows for the tables, by length."""
        inside_copies = self._short_sites(tables)
        self._constant(tables.mcounts, NOPS[5])
        self._constant(tables.locks, b"\x3e")
        self._jumps(*tables.jumps)
        self._paravirt(tables.paravirt)
        self._alternatives(tables.alternatives, inside_copies)
        for address, content in self._single:
            self._add(np.array([address], np.uint64), np.frombuffer(content, np.uint8)[None])
        return [
            Allowed(np.concatenate([at for at, _ in rows]), np.concatenate([content for _, content in rows]))
            for _, rows in sorted(self._rows.items())
        ]

    def _add(self, addresses: Words, content: Bytes) -> None:
        inside = (addresses >= np.uint64(self.start)) & (addresses + np.uint64(content.shape[1]) <= np.uint64(self.end))
        at = (addresses[inside] - np.uint64(self.start)).astype(np.int64)
        self._rows.setdefault(content.shape[1], []).append((at, content[inside]))

    def _allow(self, address: int, content: bytes) -> None:
        if self.start <= address and address + len(content) <= self.end:
            self._single[address, content] = None

    def _constant(self, addresses: Words, content: bytes) -> None:
        self._add(addresses, np.broadcast_to(np.frombuffer(content, np.uint8), (len(addresses), len(content))))

    def _short_sites(self, tables: Tables) -> dict[int, list[bytes]]:
        """Returns, retpolines and static calls: they may also lie in code that alternatives copy. By address."""
        options: dict[int, list[bytes]] = {}
        self._constant(tables.returns, RET5)
        for thunk in self.rules.return_thunks:
            self._add(tables.returns, _branches(JMP, tables.returns, thunk))
        inside = (tables.returns >= np.uint64(self.start)) & (tables.returns < np.uint64(self.end))
        for address in tables.returns[~inside].tolist():
            options[address] = [RET5, *(branch(JMP, address, to) for to in self.rules.return_thunks)]
        for address in tables.retpolines.tolist():
            options[address] = list(_retpoline(self.code.at(address, 7), address, self.rules.thunks))
        for address, key in zip(*(column.tolist() for column in tables.static_calls), strict=True):
            options[address] = list(self.static_call(address, key & ~3, bool(key & 1)))
        for address, contents in options.items():
            for content in contents:
                self._allow(address, content)
        return options

    def static_call(self, address: int, key: int, tail: bool) -> Iterator[bytes]:
        """What a static call's site may be, or (`tail`) its trampoline: __static_call_transform()."""
        for function in self.rules.functions_of(key):
            if function == 0:
                yield RET5 if tail else NOPS[5]
            elif function != self.rules.return_zero:
                yield branch(JMP if tail else CALL, address, function)
            elif tail:
                yield branch(JMP, address, self.rules.return_zero)
            else:
                yield XOR5RAX

    def trampoline(self, address: int, key: int) -> None:
        """Allow what a static call's trampoline may hold."""
        for content in self.static_call(address, key, True):
            self._allow(address, content)

    def _jumps(self, codes: Words, targets: Words) -> None:
        inside = (codes >= np.uint64(self.start)) & (codes < np.uint64(self.end))
        for address, target in zip(codes[inside].tolist(), targets[inside].tolist(), strict=True):
            if self.code.at(address, 1)[0] in (JMP8, 0x66):
                self._allow(address, NOPS[2])
                self._allow(address, bytes([JMP8, target - address - 2 & 0xFF]))
            else:
                self._allow(address, NOPS[5])
                self._allow(address, branch(JMP, address, target))

    def _paravirt(self, sites: Sequence[tuple[int, int, int]]) -> None:
        for address, number, length in sites:
            for function in self.rules.operations(number):
                if function:
                    self._allow(address, branch(CALL, address, function) + nops(length - 5))
                else:
                    self._allow(address, nops(length))

    def _alternatives(self, sites: Sequence[tuple[int, int, int, int, int]], patched: dict[int, list[bytes]]) -> None:
        for address, source, _, length, source_length in sites:
            if not self.start <= address < self.end:
                continue
            for at, run in nop_runs(self.code.at(address, length)):
                self._allow(address + at, nops(run))
            original = self.code.at(source, source_length)
            for replacement in _variants(original, source, patched):
                window = rebase(replacement, address, source, length)
                self._allow(address, window)
                self._allow(address, optimise_nops(window))


def nop_runs(content: bytes) -> Iterator[tuple[int, int]]:
    """Start and length of each run of two or more one-byte nops."""
    at = 0
    while at < len(content):
        end = at
        while end < len(content) and content[end] == 0x90:
            end += 1
        if end - at >= 2:
            yield at, end - at
        at = max(end, at + 1)


def optimise_nops(content: bytes) -> bytes:
    """optimize_nops(): runs of one-byte nops become long ones."""
    for at, run in nop_runs(content):
        content = content[:at] + nops(run) + content[at + run :]
    return content


def rebase(replacement: bytes, address: int, source: int, length: int) -> bytes:
    """apply_alternatives(): the replacement moved from `source` to `address`, and filled up to `length` with nops."""
    if len(replacement) == 5 and replacement[0] in (CALL, JMP):
        target = source + 5 + int.from_bytes(replacement[1:], "little", signed=True)
        distance = target - address
        if replacement[0] == JMP and 0 <= distance <= 129:  # recompute_jump(): short only forward
            replacement = bytes([JMP8, distance - 2 & 0xFF]) + NOPS[3]
        else:
            replacement = branch(replacement[0], address, target)
    return replacement + b"\x90" * (length - len(replacement))


def _variants(content: bytes, address: int, patched: dict[int, list[bytes]]) -> list[bytes]:
    """The content with each site inside it as it was or patched: replacements are patched before they are copied."""
    variants = [content]
    for at in range(len(content)):
        for option in patched.get(address + at, ()):
            if at + len(option) <= len(content):
                variants += [v[:at] + option + v[at + len(option) :] for v in variants if v[at:] == content[at:]]
    return variants


def _retpoline(original: bytes, address: int, thunks: dict[int, int]) -> Iterator[bytes]:
    """patch_retpoline(): an indirect branch through the register that the thunk names, plain or behind an lfence."""
    prefix = 1 if original[:1] == b"\x2e" else 0
    if len(original) < prefix + 5:  # it lies in another piece of code
        return
    opcode = original[prefix]
    if opcode not in (CALL, JMP):
        return
    length = prefix + 5
    target = address + length + int.from_bytes(original[prefix + 1 : length], "little", signed=True)
    register = thunks.get(target)
    if register is None:
        return
    indirect = (b"\x41" if register >= 8 else b"") + bytes([0xFF, (0xD0 if opcode == CALL else 0xE0) + register % 8])
    for fence in (b"", b"\x0f\xae\xe8"):
        content = fence + indirect
        if opcode == JMP and len(content) < length:
            content += bytes([INT3])
        if len(content) <= length:
            yield optimise_nops(content + b"\x90" * (length - len(content)))


def unexplained(seen: Bytes, expected: Bytes, allowed: Sequence[Allowed]) -> Offsets:
    """Offsets of the bytes that are neither the expected ones nor inside a site with an allowed content."""
    different = seen != expected
    for rows in allowed:
        spots = rows.at[:, None] + np.arange(rows.content.shape[1])
        touched = different[spots].any(axis=1)
        spots = spots[touched]
        matching = (seen[spots] == rows.content[touched]).all(axis=1)
        different[spots[matching]] = False
    return np.flatnonzero(different)
