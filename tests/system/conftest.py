# SPDX-License-Identifier: GPL-2.0-or-later
"""What all system tests have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here boots VMs or changes the machine's network.

    Two processes run them (Makefile): what shares VMs, a file or a whole folder, stays in one of them.
    """
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(HERE).parts[0]))
