# SPDX-License-Identifier: GPL-2.0-or-later
"""A manifest tells one changed byte anywhere in an image."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from vinci.images.manifest import PAGE_SIZE, page_digests, read_manifest, scan, write_manifest


def a_tree(root: Path) -> Path:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(b"A" * PAGE_SIZE + b"tail")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "empty").write_bytes(b"")
    (root / "link").symlink_to("usr/bin/tool")
    return root


def test_the_last_page_is_padded_as_in_memory() -> None:
    digests = page_digests(b"A" * PAGE_SIZE + b"tail")
    assert digests[0] == hashlib.sha256(b"A" * PAGE_SIZE).hexdigest()
    assert digests[1] == hashlib.sha256(b"tail" + bytes(PAGE_SIZE - 4)).hexdigest()
    assert page_digests(b"") == ()


def test_written_and_read_back_it_is_the_same(tmp_path: Path) -> None:
    tree = a_tree(tmp_path / "tree")
    files = {file.path: file for file in scan(tree)}
    assert set(files) == {"/usr/bin/tool", "/empty"}
    assert files["/usr/bin/tool"].mode == 0o755
    write_manifest(tmp_path / "manifest", "app", scan(tree))
    assert read_manifest(tmp_path / "manifest") == files


def test_one_changed_byte_changes_one_page(tmp_path: Path) -> None:
    tree = a_tree(tmp_path / "tree")
    before = next(file for file in scan(tree) if file.size)
    with (tree / "usr/bin/tool").open("r+b") as file:
        file.seek(PAGE_SIZE + 1)
        file.write(b"X")
    after = next(file for file in scan(tree) if file.size)
    assert before.pages[0] == after.pages[0]
    assert before.pages[1] != after.pages[1]


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = a_tree(tmp_path / "tree")
    for name in ("one", "two"):
        write_manifest(tmp_path / name, "app", scan(tree))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    path.write_bytes(gzip.compress(json.dumps({"format": 99, "files": []}).encode()))
    with pytest.raises(ValueError, match="format 99"):
        read_manifest(path)
