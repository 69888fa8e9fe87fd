# SPDX-License-Identifier: GPL-2.0-or-later
"""One pair of machines for all tests of the file service."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig
from service import Running, Service, start

from vinci.images.build import Images


@pytest.fixture(scope="package")
def running(images: Images) -> Iterator[Running]:
    """The machines; gone afterwards, whatever happens."""
    with asyncio.Runner() as runner:
        rig = Rig(images, Path(tempfile.mkdtemp(prefix="vinci-fs-rig-")))
        try:
            yield Running(runner, runner.run(start(rig.folder, rig)))
        finally:
            runner.run(rig.close())


@pytest.fixture
def service(running: Running) -> Iterator[Service]:
    """The service with everybody logged in and no event left over."""
    running(running.service.grant())
    running(running.service.events())
    yield running.service
    running(running.service.grant())
