# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m vinci.introspect`: make the trusted profile of the current images when it is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vinci.images.__main__ import DEFAULT_CACHE
from vinci.images.build import ImageError, find_images
from vinci.introspect.profile import ensure_profile


def main(words: list[str]) -> int:
    """Make the profile beside the images in the cache that VINCI_IMAGES names; 0 done, 2 wrong usage, 3 failed."""
    if words:
        print("usage: python -m vinci.introspect", file=sys.stderr)
        return 2
    try:
        images = find_images(Path(os.environ.get("VINCI_IMAGES", DEFAULT_CACHE)))
        profile = ensure_profile(images, lambda step: print(step, flush=True))
    except (ImageError, OSError, ValueError) as problem:
        print(f"profile: {problem}", file=sys.stderr)
        return 3
    print(f"profile: {profile.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
