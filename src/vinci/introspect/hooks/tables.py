# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of functions that lie in data which can be written: each function in them is a certified one.

A table in read-only data is held to the image, and a pointer that the image was linked with in its other data, too; but
a rootkit could write a table of its own between them, and let an object point to that.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache

import numpy as np

from vinci.introspect.btf import Kind, Layout
from vinci.introspect.code import Code
from vinci.introspect.guest import Guest
from vinci.introspect.memory import Unreadable, Words, distinct

_MAX_TABLES = 4096


def foreign_functions(guest: Guest, code: Code, kind: str, tables: Words) -> dict[int, str]:
    """Of these tables of struct `kind` those that name a function that is no certified one, and which.

    Args:
        tables: their addresses; those in read-only data are not looked at.
    """
    own = tables[~code.are_constant(tables)]
    if not len(own):
        return {}
    own = distinct(own)[:_MAX_TABLES]
    names, words = _functions(guest.layout, kind)
    values = np.zeros((len(own), len(words)), np.uint64)
    size = -(-guest.layout.size(kind) // 8) * 8
    for row, table in enumerate(own.tolist()):
        with contextlib.suppress(Unreadable):  # the objects that point there are looked at by themselves
            values[row] = np.frombuffer(guest.read(table, size), np.uint64)[words]
    foreign = ~code.are_functions(values.reshape(-1)).reshape(values.shape) & (values != 0)
    return {
        int(own[row]): f"{names[column]} is {code.describe(int(values[row, column]))}, which is no certified function"
        for row, column in reversed(np.argwhere(foreign).tolist())  # the first of each table
    }


@lru_cache(maxsize=64)
def _functions(layout: Layout, kind: str) -> tuple[tuple[str, ...], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Names of the members of a struct that point to functions, and the number of each one's word."""
    btf = layout.btf
    members = [
        (member.name, member.bits // 64)
        for member in btf.members(btf.type(btf.find(kind, Kind.STRUCT)))
        if (pointer := btf.strip(member.type)).kind is Kind.PTR and btf.strip(pointer.target).kind is Kind.FUNC_PROTO
    ]
    return tuple(name for name, _ in members), np.array([word for _, word in members], np.int64)
