# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m vinci.images [CACHE]`: build the guest images when the cache has none, and say where they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vinci.images.build import ensure_images
from vinci.images.run import ImageError

DEFAULT_CACHE = "/var/cache/vinci/images"


def main() -> int:
    """Build and print; exit status 0 done, 2 wrong usage, 3 failed."""
    if len(sys.argv) > 2:
        print(f"usage: {sys.argv[0]} [CACHE]", file=sys.stderr)
        return 2
    cache = Path(sys.argv[1] if len(sys.argv) == 2 else os.environ.get("VINCI_IMAGES", DEFAULT_CACHE))
    try:
        images = ensure_images(cache, lambda step: print(f"images: {step}", flush=True))
    except ImageError as problem:
        print(f"images: {problem}", file=sys.stderr)
        return 3
    print(f"images: {images.kernel.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
