# SPDX-License-Identifier: GPL-2.0-or-later
"""The image's files as a checker needs them: what a page of memory has to hold to be a page of one of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from blake3 import blake3

from vinci.images.manifest import ManifestFile

PageName = tuple[str, int]
"""A file's path in the image, and the number of a 4 KiB page in it."""
_MAX_KNOWN = 1 << 18


@dataclass
class CertifiedFiles:
    """All files of one root image, for every VM that runs from it.

    A page's SHA-256 is worked out once; after that its BLAKE3 tells it, at a sixth of the price. Nothing is remembered
    of *where* a page was: its content is hashed at every look.
    """

    pages: Mapping[str, frozenset[PageName]]
    """By SHA-256 in hexadecimal: which pages hold that content."""
    programs: frozenset[str]
    """Paths of all files that may be executed."""
    _known: dict[bytes, frozenset[PageName]] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Mapping[str, ManifestFile]) -> CertifiedFiles:
        """From an image's manifest (`read_manifest`)."""
        pages: dict[str, set[PageName]] = defaultdict(set)
        for file in manifest.values():
            for number, digest in enumerate(file.pages):
                pages[digest].add((file.path, number))
        return cls(
            {digest: frozenset(names) for digest, names in pages.items()},
            frozenset(file.path for file in manifest.values() if file.mode & 0o111),
        )

    def names(self, page: bytes | memoryview) -> frozenset[PageName]:
        """Which pages of the image hold this content; none for a page that is no page of it."""
        quick = blake3(page).digest()
        found = self._known.get(quick)
        if found is None:
            found = self.pages.get(hashlib.sha256(page).hexdigest(), frozenset())
            if len(self._known) < _MAX_KNOWN:  # a hostile guest could show new content at every look
                self._known[quick] = found
        return found
