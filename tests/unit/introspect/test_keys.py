# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings are told again by their place, not by a value there that the guest may change between two samples."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from vinci.introspect import processes, user_pages
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.code import Code
from vinci.introspect.files import IMAGE_FILE_SYSTEM, GuestFile
from vinci.introspect.findings import Check
from vinci.introspect.guest import Guest
from vinci.introspect.hooks import chains, pointers, strings
from vinci.introspect.hooks.trusted import HookTables, Pointers
from vinci.introspect.sampling import SAMPLES, Sample, check_by_samples
from vinci.introspect.tasks import Task

NOTHING = CertifiedFiles({}, frozenset())
NO_CODE = cast(
    Code, SimpleNamespace(are_functions=lambda values: np.zeros(len(values), np.bool_), describe=lambda at: f"{at:#x}")
)
SYMBOLS = SimpleNamespace(describe=hex)


def task(number: int) -> Task:
    """Another process each time: its record, its identity and its memory."""
    fields = dict.fromkeys(Task._fields, 0) | {"untrusted_comm": b"x"}
    return Task(**fields | {"address": 64 * number, "canary": number, "mm": 8 * number})  # type: ignore[arg-type]


def path(number: int, sample: Sample) -> None:
    content = f"|/tmp/x {number}".encode().ljust(128, b"\0")
    guest: Any = SimpleNamespace(
        profile=SimpleNamespace(symbols={"core_pattern": 0}, elf=SimpleNamespace(at=lambda *_: b"core\0")),
        symbol=lambda name: 0,
        read=lambda address, size: content,
    )
    strings.look(guest, NO_CODE, cast(HookTables, None), sample)


def pointer(number: int, sample: Sample) -> None:
    row = np.zeros(1, np.uint64)
    guest: Any = SimpleNamespace(
        slide=0,
        image=lambda start, size: np.array([number + 1], np.uint64).view(np.uint8),
        profile=SimpleNamespace(symbols=SYMBOLS),
        describe=hex,
    )
    pointers._check_functions(guest, NO_CODE, Pointers(0, row, row, np.zeros(1, np.bool_)), sample)


def call(number: int, sample: Sample) -> None:
    chains.check_calls(NO_CODE, [(number, "the notifier chain x", 64 * number)], sample, Check.HOOKS)


def program(number: int, sample: Sample) -> None:
    processes._check_program(sample, task(number), GuestFile("tmpfs", "/tmp/x"), NOTHING, None)


def page_of_a_file(number: int, sample: Sample) -> None:
    problem = user_pages._judged(4096 * number, GuestFile(IMAGE_FILE_SYSTEM, "/usr/bin/x"), 3, copied=False)
    user_pages._report(sample, task(number), 4096 * number, False, problem)


@pytest.mark.parametrize("show", [path, pointer, call, program, page_of_a_file])
def test_another_value_in_the_same_place_is_the_same_finding(show: Any) -> None:
    numbers = iter(range(1, 100))

    def take() -> Sample:
        sample = Sample()
        show(next(numbers), sample)
        return sample

    guest = cast(Guest, SimpleNamespace(begin=lambda budget: None, budget=None, unsettled=Counter()))
    assert len(check_by_samples(Check.HOOKS, guest, take, lambda _: None).findings) == 1
    assert next(numbers) == SAMPLES + 1
