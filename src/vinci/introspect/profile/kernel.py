# SPDX-License-Identifier: GPL-2.0-or-later
"""The trusted kernel out of its bzImage: vmlinux, relocations, symbols. Slow (seconds); done once per kernel."""

from __future__ import annotations

import contextlib
import io
import struct

import lz4.block
import numpy as np
import numpy.typing as npt

_SETUP_SECTORS = 0x1F1
_PAYLOAD_OFFSET = 0x248
_LZ4_LEGACY = 0x184C2102
_LZ4_BLOCK = 8 << 20


def unpack_bzimage(image: bytes) -> bytes:
    """The vmlinux (with its relocations behind it) that a bzImage carries, LZ4-compressed.

    Source: Documentation/x86/boot.rst (payload_offset, payload_length). Raises ValueError for another compression.
    """
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    start = (image[_SETUP_SECTORS] + 1) * 512 + offset
    payload = image[start : start + length]
    if int.from_bytes(payload[:4], "little") != _LZ4_LEGACY:
        raise ValueError("the kernel is not compressed with LZ4")
    at, blocks = 4, []
    while at < len(payload) - 4:  # the last word is the size of the whole
        size = int.from_bytes(payload[at : at + 4], "little")
        blocks.append(lz4.block.decompress(payload[at + 4 : at + 4 + size], uncompressed_size=_LZ4_BLOCK))
        at += 4 + size
    whole = b"".join(blocks)
    if len(whole) != int.from_bytes(payload[-4:], "little"):
        raise ValueError("the kernel's payload is not complete")
    return whole


Addresses = npt.NDArray[np.uint64]


def relocations(vmlinux: bytes) -> tuple[Addresses, Addresses, Addresses]:
    """Link addresses of what the boot code relocates: 64-bit, inverse 32-bit (per-CPU), 32-bit; each ascending.

    The table lies behind the ELF and is read from its end, as handle_relocations() in arch/x86/boot/compressed/misc.c
    does: 32-bit addresses, then 0, inverse ones, 0, 64-bit ones, 0. Raises ValueError when it is not complete.
    """
    words = np.frombuffer(vmlinux[len(vmlinux) % 4 :], "<i4")
    zeros: list[int] = []
    end = len(words)
    while len(zeros) < 3:
        before = np.flatnonzero(words[max(0, end - (1 << 20)) : end] == 0)
        if not len(before):
            raise ValueError("the kernel has no relocations")
        end = max(0, end - (1 << 20)) + int(before[-1])
        zeros.append(end)
    bounds = [len(words), *zeros]
    groups = [
        np.sort(words[bounds[n + 1] + 1 : bounds[n]].astype(np.int64).astype(np.uint64)) for n in range(3)
    ]  # from the end: 32-bit, inverse 32-bit, 64-bit
    return groups[2], groups[1], groups[0]


def kernel_symbols(vmlinux: bytes) -> tuple[Addresses, bytes]:
    """The kernel's own kallsyms: link addresses ascending, and the names joined by newlines."""
    from vmlinux_to_elf.core.kallsyms import KallsymsFinder  # slow to import, and only needed here

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        finder = KallsymsFinder(vmlinux, 64)
    pairs = sorted((symbol.virtual_address, symbol.name) for symbol in finder.symbols)
    return np.array([address for address, _ in pairs], np.uint64), "\n".join(name for _, name in pairs).encode()
