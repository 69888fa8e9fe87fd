# SPDX-License-Identifier: GPL-2.0-or-later
"""One running hospital for all tests here; it is taken down and leaves nothing, also when a test fails."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import ROOT, Installation


@pytest.fixture(scope="package")
def hospital() -> Iterator[Installation]:
    """The hospital of the examples, up."""
    if os.geteuid() != 0:
        pytest.fail("system tests need root: they make network namespaces and start VMs")
    state = Path(tempfile.mkdtemp(prefix="vinci-t-", dir="/tmp"))
    state.chmod(0o711)  # QEMU's user has to get through
    installation = Installation(state, ROOT / "examples" / "hospital.yaml")
    try:
        installation.check("up", str(installation.file), seconds=600)
        yield installation
    finally:
        done = installation.vinci("down")
        if done.status == 0:
            shutil.rmtree(state, ignore_errors=True)
        else:
            print(f"the test's hospital could not be taken down ({done.err}); its state is {state}", file=sys.stderr)
