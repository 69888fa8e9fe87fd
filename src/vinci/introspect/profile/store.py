# SPDX-License-Identifier: GPL-2.0-or-later
"""What is trusted of a set of images, as files that every checker maps: made once per set, beside it."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vinci.images import inputs
from vinci.images.build import Images, locked, made_once
from vinci.introspect.btf import Btf, Layout
from vinci.introspect.profile.elf import Elf
from vinci.introspect.profile.kernel import Addresses, kernel_symbols, relocations, unpack_bzimage
from vinci.introspect.symbols import Symbols

FORMAT = 1
"""Raised when older profiles must not be used any more for a reason that their code's hash does not show."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Profile:
    """The trusted kernel and all that is known of it. Addresses are link addresses; files are mapped, not loaded."""

    directory: Path
    kernel_release: str
    elf: Elf
    layout: Layout
    symbols: Symbols
    relocations64: Addresses
    relocations_inverse32: Addresses
    relocations32: Addresses

    @property
    def start(self) -> int:
        """Where the image begins: `_text`."""
        return self.symbols["_text"]

    @property
    def end(self) -> int:
        """Where the image ends: `_end`."""
        return self.symbols["_end"]


def profile_directory(images: Images) -> Path:
    """Where the profile of a set of images lies, named by what it is made from: the set and the code that makes it."""
    code = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return images.kernel.parent.parent / f"profile-{inputs.text_digest(FORMAT, images.digest, code)}"


def ensure_profile(images: Images, progress: Progress = lambda step: None) -> Profile:
    """The profile of a set of images, made when it is missing; other callers wait meanwhile.

    Raises OSError when the cache cannot be written, ValueError when the images are not what the profile can be made of.
    """
    directory = profile_directory(images)
    if not directory.is_dir():
        with locked(directory.parent):
            made_once(directory.parent, directory.name, lambda work: _make(images, work / "out", progress))
    return load_profile(directory)


def _make(images: Images, out: Path, progress: Progress) -> None:
    progress("profile: kernel")
    vmlinux = unpack_bzimage(images.kernel.read_bytes())
    (out / "vmlinux").write_bytes(vmlinux)
    for name, addresses in zip(("64", "inverse32", "32"), relocations(vmlinux), strict=True):
        np.save(out / f"relocations{name}.npy", addresses)
    progress("profile: symbols")
    addresses, names = kernel_symbols(vmlinux)
    np.save(out / "symbols.npy", addresses)
    (out / "symbols.txt").write_bytes(names)
    (out / "about.json").write_text(json.dumps({"kernel_release": images.kernel_release, "images": images.digest}))


def load_profile(directory: Path) -> Profile:
    """Open a profile that `ensure_profile` made. Raises OSError, ValueError."""
    about = json.loads((directory / "about.json").read_text())
    with (directory / "vmlinux").open("rb") as file:
        elf = Elf(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    return Profile(
        directory=directory,
        kernel_release=about["kernel_release"],
        elf=elf,
        layout=Layout(Btf(bytes(elf.content(".BTF")))),
        symbols=Symbols(_array(directory / "symbols.npy"), (directory / "symbols.txt").read_bytes()),
        relocations64=_array(directory / "relocations64.npy"),
        relocations_inverse32=_array(directory / "relocationsinverse32.npy"),
        relocations32=_array(directory / "relocations32.npy"),
    )


def _array(path: Path) -> Addresses:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
