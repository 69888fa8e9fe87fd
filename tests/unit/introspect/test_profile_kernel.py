# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel out of its bzImage, and its relocations from the end of the file."""

from __future__ import annotations

import struct

import lz4.block
import pytest

from vinci.introspect.profile.kernel import relocations, unpack_bzimage

TEXT = 0xFFFF_FFFF_8100_0000


def bzimage(whole: bytes, magic: int = 0x184C2102, claimed: int | None = None) -> bytes:
    """A bzImage with one setup sector behind the first and the payload 16 bytes into the kernel."""
    blocks = [lz4.block.compress(whole[at : at + (8 << 20)], store_size=False) for at in range(0, len(whole), 8 << 20)]
    payload = struct.pack("<I", magic) + b"".join(struct.pack("<I", len(block)) + block for block in blocks)
    payload += struct.pack("<I", len(whole) if claimed is None else claimed)
    head = bytearray(1024 + 16)
    head[0x1F1] = 1
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + payload + b"signature"


def test_the_payload_is_unpacked_whole() -> None:
    whole = bytes(range(256)) * 40_000  # more than one block
    assert unpack_bzimage(bzimage(whole)) == whole


def test_another_compression_or_a_cut_payload_is_refused() -> None:
    with pytest.raises(ValueError, match="LZ4"):
        unpack_bzimage(bzimage(b"kernel", magic=0x8B1F))
    with pytest.raises(ValueError, match="complete"):
        unpack_bzimage(bzimage(b"kernel", claimed=7))


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *(value & 0xFFFFFFFF for value in values))


def test_relocations_are_read_from_the_end() -> None:
    table = words(0, TEXT + 64, TEXT + 8, 0, TEXT + 100, 0, TEXT + 30, TEXT + 20, TEXT + 10)
    for odd in (b"", b"\1", b"\1\2\3"):  # the ELF before it ends anywhere
        wide, inverse, narrow = relocations(odd + b"\x7fELF" * 100 + table)
        assert wide.tolist() == [TEXT + 8, TEXT + 64]
        assert inverse.tolist() == [TEXT + 100]
        assert narrow.tolist() == [TEXT + 10, TEXT + 20, TEXT + 30]


def test_a_kernel_without_relocations_is_refused() -> None:
    with pytest.raises(ValueError, match="no relocations"):
        relocations(b"\x7fELF" * 100)
