# SPDX-License-Identifier: GPL-2.0-or-later
"""The code that the kernel itself maps into processes (the vDSO), explained byte for byte.

Source: linux/arch/x86/entry/vdso. The trusted kernel holds the image and says where it replaces instructions in it at
boot; at such a place either the original or a replacement may stand, and nothing else. The 32-bit vDSO is left out: no
program of an image is a 32-bit one.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass

from vinci.introspect.guest import Guest
from vinci.introspect.memory import PAGE_SIZE
from vinci.introspect.profile.elf import Elf
from vinci.introspect.sites import NOPS

_ALTERNATIVE = struct.Struct("<iiHBB")
"""struct alt_instr: relative addresses of the instruction and of its replacement, CPU feature, both lengths."""
_IMAGE = "vdso_image_64"
Places = dict[int, tuple[bytes, ...]]
"""What may stand at an offset; all of one length."""


@dataclass(frozen=True, slots=True)
class VdsoPage:
    """A page of the vDSO: its trusted bytes, and what else may stand at some offsets."""

    trusted: bytes
    places: Places

    def explains(self, found: bytes) -> bool:
        """Whether the kernel could have made `found` of this page."""
        rest = bytearray(found)
        for offset, allowed in self.places.items():
            end = offset + len(allowed[0])
            if bytes(rest[offset:end]) in allowed:
                rest[offset:end] = self.trusted[offset:end]
        return bytes(rest) == self.trusted


def vdso_pages(guest: Guest) -> dict[int, VdsoPage]:
    """The pages of the vDSO by physical address, where the kernel has them in this guest."""
    elf, at = guest.profile.elf, guest.profile.symbols[_IMAGE]
    data = elf.u64(at + guest.layout.offset("vdso_image", "data"))
    image = bytes(elf.at(data, elf.u64(at + guest.layout.offset("vdso_image", "size"))))
    places = allowed_places(image)
    first = data - guest.profile.start + guest.physical_base
    return {
        first + start: VdsoPage(
            image[start : start + PAGE_SIZE],
            {at - start: allowed for at, allowed in places.items() if start <= at < start + PAGE_SIZE},
        )
        for start in range(0, len(image), PAGE_SIZE)
    }


def allowed_places(image: bytes) -> Places:
    """What may stand where in a vDSO image besides its own bytes. Raises ValueError when it is no ELF file."""
    section = Elf(image).by_name.get(".altinstructions")
    found: dict[int, list[bytes]] = defaultdict(list)
    if section is not None:
        for at in range(section.offset, section.offset + section.size, _ALTERNATIVE.size):
            to_original, to_replacement, _, length, new_length = _ALTERNATIVE.unpack_from(image, at)
            original, replacement = at + to_original, at + 4 + to_replacement
            new = image[replacement : replacement + new_length] + _padding(length - new_length)
            found[original] += [image[original : original + length], new]
    return {at: tuple(dict.fromkeys(allowed)) for at, allowed in found.items()}


def _padding(length: int) -> bytes:
    return NOPS[8] * (length // 8) + NOPS[length % 8]
