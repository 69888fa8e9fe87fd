# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m vinci.images [--prune]`: build the guest images when they are out of date; or remove old ones."""

from __future__ import annotations

import sys

from vinci.images.build import ImageError, ensure_images
from vinci.images.prune import prune
from vinci.settings import DEFAULT_IMAGES, SettingsError, read_settings

DEFAULT_CACHE = str(DEFAULT_IMAGES)


def main(words: list[str]) -> int:
    """Build or prune the cache that the settings name; exit status 0 done, 2 wrong usage or settings, 3 failed."""
    try:
        cache = read_settings().images
    except SettingsError as problem:
        print(f"images: {problem}", file=sys.stderr)
        return 2
    if words == ["--prune"]:
        for name in prune(cache):
            print(f"images: removed {name}")
        return 0
    if words:
        print("usage: python -m vinci.images [--prune]", file=sys.stderr)
        return 2
    try:
        images = ensure_images(cache, lambda step: print(f"images: {step}", flush=True))
    except ImageError as problem:
        print(f"images: {problem}", file=sys.stderr)
        return 3
    print(f"images: {images.kernel.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
