# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m vinci.images [--prune]`: build the guest images when they are out of date; or remove old ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vinci.images.build import ImageError, ensure_images
from vinci.images.prune import prune

DEFAULT_CACHE = "/var/cache/vinci/images"


def main(words: list[str]) -> int:
    """Build or prune the cache that VINCI_IMAGES names; exit status 0 done, 2 wrong usage, 3 failed."""
    cache = Path(os.environ.get("VINCI_IMAGES", DEFAULT_CACHE))
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
