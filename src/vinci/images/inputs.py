# SPDX-License-Identifier: GPL-2.0-or-later
"""What a set of images is made of, and its hash: specification, our own files, versions of Debian packages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vinci.images import debian
from vinci.images.run import ImageError
from vinci.images.spec import EXCLUDED_PATHS, FORMAT, GUEST_FILES, ImageSpec, RootSpec
from vinci.policy.app_policy import app_policy

APT_LISTS = Path("/var/lib/apt/lists")
_RESOLVED = ".resolved.json"
_DIGEST_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Ingredients:
    """The resolved package versions (name -> version, by image) and the hash of all inputs."""

    versions: dict[str, dict[str, str]]
    digest: str


def own_digest(spec: ImageSpec, guest: Path) -> str:
    """Hash of what this repository contributes: specification, guest files, SELinux policy and this room's code."""
    files = [file_digests(base) for base in (guest, Path(__file__).parent)]
    return text_digest(FORMAT, asdict(spec), GUEST_FILES, EXCLUDED_PATHS, app_policy(), files)


def text_digest(*values: object) -> str:
    """A short hash of values that JSON can express."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH]


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below `folder` that ends up in an image or decides how it is made, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".pyc", ".md"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def tree_digest(root: RootSpec, versions: dict[str, str]) -> str:
    """Hash of what decides the Debian part of a root: versions, what is left out, and the code that makes it."""
    code = [(Path(__file__).parent / name).read_text() for name in ("debian.py", "rootfs.py")]
    return text_digest(FORMAT, sorted(root.packages), versions, EXCLUDED_PATHS, root.prune, code)


def collect(spec: ImageSpec, guest: Path, cache_dir: Path, progress: Callable[[str], None]) -> Ingredients:
    """Resolve the packages and hash all inputs.

    apt is asked only when its lists have changed since the last time. On a machine whose lists were removed the last
    answer holds, so that images that are there stay usable.
    """
    own = own_digest(spec, guest)
    versions = _versions(spec, cache_dir / _RESOLVED, progress)
    return Ingredients(versions, text_digest(own, versions))


def _versions(spec: ImageSpec, store: Path, progress: Callable[[str], None]) -> dict[str, dict[str, str]]:
    packages = {root.kind.value: list(root.packages) for root in spec.roots}
    packages["kernel"] = [f"linux-image-{spec.kernel_release}", *spec.kernel_build_packages]
    asked = text_digest(packages, _lists_state())
    known: dict[str, Any] = _read_json(store)
    if known.get("asked") == asked:
        return dict(known["versions"])
    progress("resolving package versions")
    try:
        versions = {name: debian.resolve(tuple(wanted)) for name, wanted in packages.items()}
    except ImageError as problem:
        if known.get("packages") == packages:
            return dict(known["versions"])
        raise ImageError(
            f"{problem}\napt does not know the packages of the guest images: run apt-get update; if the kernel"
            f" {spec.kernel_release} is gone from the archive, pin another in vinci/images/spec.py"
        ) from problem
    temporary = store.with_suffix(".new")
    temporary.write_text(json.dumps({"asked": asked, "packages": packages, "versions": versions}))
    temporary.rename(store)
    return versions


def _lists_state() -> list[tuple[str, int, int]]:
    files = (path for path in APT_LISTS.glob("*_Packages*"))
    return sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
