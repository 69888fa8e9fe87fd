# SPDX-License-Identifier: GPL-2.0-or-later
"""Random infrastructures for property tests, drawn by `bench/random_declarations.py`, which passes every cross check.
`leaky=True` also draws downward flows, grants and people whom nobody trusts (which the proof of flows has to find).
"""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import strategies as st
from random_declarations import random_declaration

from vinci.model.infrastructure import Infrastructure


def declarations(*, leaky: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    """The plain data of a valid file, as YAML would give it."""
    return st.randoms(use_true_random=False).map(lambda random: random_declaration(random, leaky=leaky))


class _Dumper(yaml.SafeDumper):
    """Writes shared values out: the file format has no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(data: object) -> bytes:
    """The data as an administrator would write it."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False).encode()


def infrastructures(*, leaky: bool = False) -> st.SearchStrategy[Infrastructure]:
    """Valid infrastructures."""
    return declarations(leaky=leaky).map(Infrastructure.model_validate)
