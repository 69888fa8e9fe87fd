# SPDX-License-Identifier: GPL-2.0-or-later
"""Content manifests: what every page of every file of an image is, to compare a running guest's page cache with.

The file is gzipped JSON: `{"format": 1, "kind": ..., "files": [{"path", "mode", "uid", "gid", "size", "pages"}]}`.
`pages` is the concatenated hexadecimal SHA-256 of each 4 KiB page, the last one padded with zero bytes as in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE_SIZE = 4096
FORMAT = 1
_DIGEST_HEX = 64


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One regular file of an image: absolute path in the guest, permission bits, owner, size in bytes, page digests."""

    path: str
    mode: int
    uid: int
    gid: int
    size: int
    pages: tuple[str, ...]


def page_digests(content: bytes) -> tuple[str, ...]:
    """SHA-256 of each 4 KiB page of `content`, the last one padded with zero bytes; none for an empty file."""
    return tuple(
        hashlib.sha256(content[start : start + PAGE_SIZE].ljust(PAGE_SIZE, b"\0")).hexdigest()
        for start in range(0, len(content), PAGE_SIZE)
    )


def scan(root: Path) -> Iterator[ManifestFile]:
    """Every regular file under `root`, sorted by path; symlinks are not followed."""
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            yield ManifestFile(
                path="/" + str(path.relative_to(root)),
                mode=stat.S_IMODE(status.st_mode),
                uid=status.st_uid,
                gid=status.st_gid,
                size=status.st_size,
                pages=page_digests(path.read_bytes()),
            )


def write_manifest(target: Path, kind: str, files: Iterator[ManifestFile]) -> None:
    """Write a manifest; the same files give the same bytes."""
    records = [
        {
            "path": file.path,
            "mode": file.mode,
            "uid": file.uid,
            "gid": file.gid,
            "size": file.size,
            "pages": "".join(file.pages),
        }
        for file in files
    ]
    text = json.dumps({"format": FORMAT, "kind": kind, "files": records}, separators=(",", ":"))
    target.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))


def read_manifest(source: Path) -> dict[str, ManifestFile]:
    """The files of a manifest by their absolute path. Raises ValueError when it is of another format."""
    document: dict[str, Any] = json.loads(gzip.decompress(source.read_bytes()))
    if document.get("format") != FORMAT:
        raise ValueError(f"{source}: manifest format {document.get('format')} instead of {FORMAT}")
    return {
        record["path"]: ManifestFile(
            path=record["path"],
            mode=record["mode"],
            uid=record["uid"],
            gid=record["gid"],
            size=record["size"],
            pages=_split(record["pages"]),
        )
        for record in document["files"]
    }


def _split(pages: str) -> tuple[str, ...]:
    return tuple(pages[start : start + _DIGEST_HEX] for start in range(0, len(pages), _DIGEST_HEX))
