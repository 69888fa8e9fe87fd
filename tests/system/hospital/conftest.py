# SPDX-License-Identifier: GPL-2.0-or-later
"""One running hospital for all tests here; it is taken down and leaves nothing, also when a test fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from installation import ROOT, Installation, installed


@pytest.fixture(scope="package")
def hospital() -> Iterator[Installation]:
    """The hospital of the examples, up."""
    with installed(ROOT / "examples" / "hospital.yaml") as made:
        made.up()
        yield made
