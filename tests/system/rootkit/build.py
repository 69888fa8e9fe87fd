# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds the tests' rootkit for the kernel of a set of images, once; kept beside the images, never in them."""

from __future__ import annotations

import json
from pathlib import Path

from vinci.images import debian, inputs
from vinci.images.build import Images, locked, made_once
from vinci.images.run import run

HERE = Path(__file__).parent
_SOURCES = "/usr/src/"


def rootkit_module(images: Images) -> Path:
    """The `rootkit.ko` for the kernel of `images`. Raises ImageError when it cannot be built."""
    release = images.kernel_release
    wanted = (
        f"linux-headers-{release}",
        f"linux-headers-{release.removesuffix('-cloud-amd64')}-common",
        "linux-kbuild-6.1",
    )
    known: dict[str, str] = json.loads(images.packages.read_text())["kernel"]
    versions = {name: known[name] for name in wanted}
    cache = images.kernel.parent.resolve().parent
    sources = {path.name: path.read_text() for path in (*HERE.glob("*.[ch]"), HERE / "Makefile")}
    name = f"rootkit-{inputs.text_digest(versions, sources)}"
    with locked(cache):
        return made_once(cache, name, lambda work: _build(release, versions, work)) / "rootkit.ko"


def _build(release: str, versions: dict[str, str], work: Path) -> None:
    log, packages, headers, module = work / "log", work / "packages", work / "headers", work / "module"
    for folder in (headers, module):
        folder.mkdir()
    for package in debian.fetch(versions, work, log):
        debian.unpack(package, packages, log)
    # The headers' Makefile names the common headers by an absolute path, which holds only where they are installed.
    for path in (packages / f"usr/src/linux-headers-{release}").iterdir():
        if path.name == "Makefile":
            (headers / path.name).write_text(path.read_text().replace(_SOURCES, f"{packages}{_SOURCES}"))
        else:
            (headers / path.name).symlink_to(path)
    for source in (*HERE.glob("*.[ch]"), HERE / "Makefile"):
        (module / source.name).write_text(source.read_text())
    run(["make", "-s", "-C", str(headers), f"M={module}", "modules"], log=log)
    run(["strip", "--strip-debug", str(module / "rootkit.ko")], log=log)
    (module / "rootkit.ko").rename(work / "out" / "rootkit.ko")
