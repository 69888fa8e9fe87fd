# SPDX-License-Identifier: GPL-2.0-or-later
"""What all system tests have in common. Two processes may run them: what shares VMs stays in one of the two."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from looks import Trusted
from network_rig import Rig
from xdist.scheduler import LoadScopeScheduling

from vinci.images.build import Images, ensure_images
from vinci.node.paths import images_directory

HERE = Path(__file__).parent
LONGEST = (
    *("hospital", "test_introspection.py", "test_gateways.py", "fs_rig", "test_kill.py", "test_rule_change.py"),
    *("test_rootkit.py", "test_images.py"),
)
"""They begin, so that both processes end at about the same time."""


@pytest.fixture(scope="session")
def images() -> Images:
    """The guest images, built when they are out of date."""
    return ensure_images(images_directory())


@pytest.fixture(scope="module")
def trusted(images: Images) -> Trusted:
    """What introspection compares a guest of these images with."""
    return Trusted.of(images)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """The event loop in which a module's VMs are talked with."""
    with asyncio.Runner() as one:
        yield one


@pytest.fixture(scope="module")
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The bridge that the module calls VCN, with a namespace at each port."""
    made = Rig(f"vt{os.getpid()}", request.module.VCN)
    yield made
    made.close()


@pytest.fixture
def vcn(rig: Rig, request: pytest.FixtureRequest) -> Rig:
    """The same with its rules in force and nothing left to read; the module names two of its peers A and FS."""
    rig.load()
    rig.records_until(request.module.A, request.module.FS)
    return rig


def _room(path: str) -> str:
    """The file, or the folder of several files, that a test lies in: its tests share what they boot."""
    return path.partition(f"{HERE.name}/")[2].partition("::")[0].partition("/")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here boots VMs or changes the machine's network."""
    mine = [item for item in items if HERE in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.system)
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(_room(item.nodeid), len(order)))


class RoomScheduling(LoadScopeScheduling):
    """Hands out rooms, in the order of collection; xdist's own groups are not seen by this version of pytest."""

    def _split_scope(self, nodeid: str) -> str:
        return _room(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RoomScheduling:
    """What hands out the tests when there is more than one process."""
    config.option.loadscopereorder = False
    return RoomScheduling(config, log)
