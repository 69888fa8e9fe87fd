# SPDX-License-Identifier: GPL-2.0-or-later
"""Lock files name versions and hashes, and no registry: where packages come from is the machine's configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
SOURCES = re.compile(
    r"://|^\s*(-i|-f|-e|--index-url|--extra-index-url|--find-links|--trusted-host)\b| @ ", re.MULTILINE
)


def test_there_are_lock_files() -> None:
    assert [path.name for path in LOCKS] == ["requirements-dev.lock", "requirements.lock"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_file_names_no_registry(path: Path) -> None:
    assert SOURCES.findall(path.read_text()) == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_package_has_one_version_and_its_hashes(path: Path) -> None:
    entries = re.split(r"^(?=[a-z0-9])", path.read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==[^ ;]+ *(;[^\\]*)?\\\n", entry), entry
        assert "--hash=sha256:" in entry
