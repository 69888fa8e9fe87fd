# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of images: found again by their inputs, never half there."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from vinci.images.build import GUEST_DIRECTORY, ImageError, find_images, locked, made_once
from vinci.images.inputs import own_digest, tree_digest
from vinci.images.prune import prune as prune_cache
from vinci.images.rootfs import guest_sources, prune
from vinci.images.spec import GUEST_FILES, SPEC, RootKind

APP = next(root for root in SPEC.roots if root.kind is RootKind.APP)


def fill(work: Path) -> None:
    (work / "out/image").write_text("whole")


def test_made_once(tmp_path: Path) -> None:
    calls = []

    def make(work: Path) -> None:
        calls.append(work)
        fill(work)

    for _ in range(2):
        assert (made_once(tmp_path, "abc", make) / "image").read_text() == "whole"
    assert len(calls) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(work: Path) -> None:
        fill(work)
        raise ImageError("no mirror")

    with pytest.raises(ImageError, match="no mirror"):
        made_once(tmp_path, "abc", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_removed_and_not_used(tmp_path: Path) -> None:
    (tmp_path / ".build-dead/out").mkdir(parents=True)
    made_once(tmp_path, "abc", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]


def test_two_builders_take_turns(tmp_path: Path) -> None:
    inside, order = threading.Event(), []

    def second() -> None:
        inside.wait(10)
        with locked(tmp_path):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with locked(tmp_path):
        inside.set()
        other.join(0.2)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def test_no_images_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="make images"):
        find_images(tmp_path)


def test_a_dangling_pointer_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("gone")
    with pytest.raises(ImageError):
        find_images(tmp_path)


def test_every_input_counts(tmp_path: Path) -> None:
    guest = tmp_path / "guest"
    shutil.copytree(GUEST_DIRECTORY, guest)
    first = own_digest(SPEC, guest)
    assert own_digest(SPEC, guest) == first
    assert own_digest(replace(SPEC, kernel_release="6.1.0-57-cloud-amd64"), guest) != first
    (guest / "init/rc").write_text("changed")
    assert own_digest(SPEC, guest) != first


def test_documents_do_not_count(tmp_path: Path) -> None:
    guest = tmp_path / "guest"
    shutil.copytree(GUEST_DIRECTORY, guest)
    first = own_digest(SPEC, guest)
    (guest / "README.md").write_text("words")
    assert own_digest(SPEC, guest) == first


def test_a_new_version_of_a_package_makes_a_new_tree() -> None:
    versions = {"bash": "5.2.15-2"}
    assert tree_digest(APP, versions) == tree_digest(APP, dict(versions))
    assert tree_digest(APP, versions) != tree_digest(APP, {"bash": "5.2.15-3"})
    assert tree_digest(APP, versions) != tree_digest(replace(APP, prune=()), versions)


def test_every_guest_file_exists_and_lands_under_its_own_name() -> None:
    for root in SPEC.roots:
        pairs = guest_sources(GUEST_DIRECTORY, root.guest)
        assert all(source.is_file() for source, _ in pairs)
        targets = [target for _, target in pairs]
        assert len(set(targets)) == len(targets)
        assert set(GUEST_FILES.values()) <= set(targets)


def test_pruning_takes_patterns_and_set_uid_bits(tmp_path: Path) -> None:
    for path in ("usr/share/perl/x", "var/log/dpkg.log", "usr/bin/su"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / "usr/bin/su").chmod(0o4755)
    (tmp_path / "usr/bin/plain").write_text("")
    (tmp_path / "usr/bin/plain").chmod(0o750)
    (tmp_path / "loop").symlink_to(tmp_path)
    prune(tmp_path, ("usr/share/perl", "var/log/*", "not/there"))
    assert not (tmp_path / "usr/share/perl").exists()
    assert (tmp_path / "var/log").is_dir()
    assert not list((tmp_path / "var/log").iterdir())
    assert (tmp_path / "usr/bin/su").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "usr/bin/plain").stat().st_mode & 0o7777 == 0o750


def test_pruning_keeps_what_is_current_or_in_use(tmp_path: Path) -> None:
    current, used, old = ("a" * 24, "b" * 24, "c" * 24)
    profiles = [f"profile-{name}-0123456789ab" for name in (current, used, old)]
    for name in (current, used, old, ".kept-app-x", *profiles):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.erofs").write_text("")
    (tmp_path / "current").symlink_to(current)
    with (tmp_path / used / "app.erofs").open():
        assert prune_cache(tmp_path) == [old, profiles[2]]
    left = [".kept-app-x", ".lock", current, used, "current", *profiles[:2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert prune_cache(tmp_path) == [used, profiles[1]]
