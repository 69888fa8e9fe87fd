# SPDX-License-Identifier: GPL-2.0-or-later
"""The declaration as members of the group may read it: whoever has a hash of a password can guess at it for years."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from yaml import (
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    YAMLError,
)
from yaml.cyaml import CParser  # type: ignore[attr-defined]

from vinci.model.complaints import SECRET_KEYS

_HASH = re.compile(r"\$argon2\S*")
_BREAKS = "\r\n\x85\u2028\u2029"


@lru_cache(maxsize=1)
def without_hashes(text: bytes) -> str:
    """The text with nothing in place of each password's hash; every line stays where it is.

    A text that is no YAML (any more) is withheld as a whole: where its hashes are is not known.
    """
    whole = text.decode(errors="replace").removeprefix("\ufeff")
    try:
        places = list(_secrets(CParser(whole)))
    except YAMLError:
        return ""
    parts, done = [], 0
    for start, end in places:
        parts += [whole[done:start], _nothing(whole[start:end])]
        done = end
    return _HASH.sub("", "".join([*parts, whole[done:]]))  # in a comment, say


def _nothing(secret: str) -> str:
    breaks = "".join(character for character in secret if character in _BREAKS)
    return "null" + breaks if breaks else "null".ljust(len(secret))


def _secrets(parser: CParser) -> Iterator[tuple[int, int]]:
    """Where the values of secret keys start and end."""
    # For each collection that is open, the key whose value comes next: "" where a key comes next, None in a list.
    keys: list[str | None] = []
    while parser.check_event():
        event: Any = parser.get_event()
        start, end = event.start_mark, event.end_mark
        if isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            keys.pop()
        elif isinstance(event, NodeEvent):
            scalar = event.value if isinstance(event, ScalarEvent) else None
            if keys and keys[-1] == "":
                keys[-1] = scalar or "(no word)"
            elif keys and keys[-1] is not None:
                if keys[-1] in SECRET_KEYS and scalar is not None:
                    yield start.index, end.index
                keys[-1] = ""
            if isinstance(event, MappingStartEvent):
                keys.append("")
            elif isinstance(event, SequenceStartEvent):
                keys.append(None)
