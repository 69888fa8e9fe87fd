# SPDX-License-Identifier: GPL-2.0-or-later
"""Physical memory with a hole, as QEMU describes it."""

from __future__ import annotations

import numpy as np
import pytest

from vinci.introspect.memory import GuestMemory, Region, Unreadable, parse_regions

MTREE = """FlatView #0
 AS "mch", root: bus master container
 Root memory region: (none)
  No rendered FlatView

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-00000000000bffff (prio 0, ram): pc.ram
  00000000000c0000-00000000000c0fff (prio 0, rom): pc.ram @00000000000c0000
  00000000000c1000-000000007fffffff (prio 0, ram): pc.ram @00000000000c1000
  00000000b0000000-00000000bfffffff (prio 0, i/o): pcie-mmcfg-mmio
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  0000000100000000-000000017fffffff (prio 0, ram): pc.ram @0000000080000000

FlatView #2
 AS "cpu-smm-0", root: memory
  0000000000000000-00000000ffffffff (prio 0, ram): pc.ram
"""
SPLIT = (Region(0x1000, 0x2000, 0), Region(0x8000, 0x1000, 0x2000))


def test_ram_around_the_hole_is_taken_from_the_flat_view_of_memory() -> None:
    assert parse_regions(MTREE) == (
        Region(0, 0x8000_0000, 0),
        Region(0x1_0000_0000, 0x8000_0000, 0x8000_0000),
    )


@pytest.mark.parametrize("text", ["", MTREE.replace('"memory"', '"other"'), MTREE.replace("pc.ram", "other")])
def test_a_tree_without_that_ram_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="info mtree"):
        parse_regions(text)


def test_reads_stay_inside_one_region() -> None:
    memory = GuestMemory(bytes(range(256)) * 48, SPLIT)
    assert memory.read(0x1001, 3) == b"\1\2\3"
    assert memory.u64(0x8000) == 0x0706050403020100
    assert memory.view(0x8FFF, 1)[0] == 0xFF
    for address, size in ((0, 1), (0x2FFF, 2), (0x3000, 1), (0x8FF9, 8), (0x1000, -1), (1 << 64, 1), (-1, 1)):
        with pytest.raises(Unreadable):
            memory.read(address, size)
        with pytest.raises(Unreadable):
            memory.view(address, size)
    with pytest.raises(Unreadable):
        memory.u64(0x2FFC)


def test_frames_are_found_for_many_addresses_at_once() -> None:
    memory = GuestMemory(bytes(0x3000), SPLIT)
    addresses = np.array([0, 0x1000, 0x2FFF, 0x3000, 0x8000, 0x9000, 1 << 63, (1 << 64) - 1], np.uint64)
    assert memory.frames_of(addresses).tolist() == [-1, 0, 1, -1, 2, -1, -1, -1]


@pytest.mark.parametrize("region", [Region(0, 0x4000, 0), Region(0, 0x1000, 0x3000), Region(0x800, 0x1000, 0)])
def test_regions_that_the_file_does_not_hold_are_refused(region: Region) -> None:
    with pytest.raises(ValueError, match="RAM"):
        GuestMemory(bytes(0x3000), (region,))
