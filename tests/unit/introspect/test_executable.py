# SPDX-License-Identifier: GPL-2.0-or-later
"""Which executable pages are the kernel's own: by their addresses, up to the very last one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinci.introspect import executable
from vinci.introspect.executable import _kernel_text, _module_text
from vinci.introspect.guest import Guest
from vinci.introspect.paging import Mappings
from vinci.introspect.sampling import Sample

TEXT, TEXT_END, PHYSICAL = 0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8200_0000, 0x100_0000
MODULE = 0xFFFF_FFFF_C000_0000


def listing(*pages: tuple[int, int]) -> Mappings:
    """Executable pages by address and size, at the physical places of a text that begins at TEXT."""
    virtual, size = (np.array(column, np.uint64) for column in zip(*pages, strict=True))
    rights = [np.full(len(pages), right) for right in (False, False, True)]
    return Mappings(virtual, virtual - np.uint64(TEXT) + np.uint64(PHYSICAL), size, *rights, 0)


def kernel() -> Guest:
    profile = SimpleNamespace(symbols={"_etext": TEXT_END})
    return cast(
        Guest, SimpleNamespace(symbol=lambda _: TEXT, slid=lambda at: at, profile=profile, physical_base=PHYSICAL)
    )


@pytest.mark.parametrize(("virtual", "size"), [(0xFFFF_FFFF_FFFF_F000, 4096), (0xFFFF_FFFF_FFE0_0000, 2 << 20)])
def test_the_topmost_page_is_not_the_kernels_text(virtual: int, size: int) -> None:
    """Its end is 0, and smaller than every other one."""
    sample = Sample()
    assert _kernel_text(kernel(), listing((virtual, size), (TEXT, 4096)), sample).tolist() == [False, True]


def owned(monkeypatch: pytest.MonkeyPatch, modules: dict[int, int], *pages: tuple[int, int]) -> list[bool]:
    """Which pages are the text of modules, by their bases and sizes."""
    loaded = [SimpleNamespace(name=str(base), base=base, initialising=False) for base in modules]
    monkeypatch.setattr(executable, "listed", lambda _: [])
    monkeypatch.setattr(executable, "plausible", lambda *_: loaded)
    files = {str(base): SimpleNamespace(core=SimpleNamespace(text=size)) for base, size in modules.items()}
    guest: Any = SimpleNamespace(profile=SimpleNamespace(module=files.get))
    found: list[bool] = _module_text(guest, listing(*pages)).tolist()
    return found


@given(
    st.dictionaries(st.integers(0, 40), st.integers(1, 5 * 4096), max_size=6),
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 3)), min_size=1, max_size=8),
)
def test_text_of_modules_is_what_lies_wholly_in_one_of_them(
    modules: dict[int, int], pages: list[tuple[int, int]]
) -> None:
    spans = {MODULE + 4096 * at: size for at, size in modules.items()}
    places = [(MODULE + 4096 * at, 4096 * count) for at, count in pages]
    with pytest.MonkeyPatch.context() as patch:
        found = owned(patch, spans, *places)
    for (at, size), own in zip(places, found, strict=True):
        within = [base for base, text in spans.items() if base <= at and at + size <= base + -(-text // 4096) * 4096]
        assert not own or within
        begun = [base for base in spans if base <= at]
        if len(within) == 1 and within[0] == max(begun):  # honest modules do not overlap
            assert own


def test_the_topmost_page_is_no_modules_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert owned(monkeypatch, {MODULE: 8192}, (0xFFFF_FFFF_FFFF_F000, 4096), (MODULE + 4096, 4096)) == [False, True]
