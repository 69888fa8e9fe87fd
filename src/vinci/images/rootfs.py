# SPDX-License-Identifier: GPL-2.0-or-later
"""From a Debian tree to a read-only root image: what is left out, what is put in, and the erofs file."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from vinci.images.manifest import scan, write_manifest
from vinci.images.modules import dependency_closure
from vinci.images.run import run
from vinci.images.spec import GUEST_FILES, RootSpec

_FILE_TIME = "1700000000"
"""One time for all files: the same tree gives the same image."""

_CAPABILITY = "security.capability"
_IMAGE_UUID = "76696e63-6900-4000-8000-000000000000"

_FIXED_FILES = {
    "etc/fstab": "",
    "etc/hostname": "localhost\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/machine-id": "",
    "etc/nsswitch.conf": "".join(
        f"{table}: files\n" for table in ("passwd", "group", "shadow", "hosts", "services", "protocols")
    ),
    "etc/resolv.conf": "",
}
"""No name service: a guest knows addresses only, and a look-up that cannot be answered would only cost its time-out."""


def prune(tree: Path, patterns: tuple[str, ...]) -> None:
    """Remove what matches `patterns` (globs below `tree`); take set-UID, set-GID and capabilities from all files."""
    for pattern in patterns:
        for path in sorted(tree.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for path in tree.rglob("*"):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            continue
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(stat.S_IMODE(status.st_mode) & 0o777)
        if _CAPABILITY in os.listxattr(path):
            os.removexattr(path, _CAPABILITY)


def add_modules(tree: Path, kernel_tree: Path, release: str, wanted: tuple[str, ...]) -> tuple[Path, ...]:
    """Copy the modules `wanted`, and what they need, into `tree`; returns the copies. `depmod` is run by the caller."""
    source = kernel_tree / "lib/modules" / release
    target = tree / "usr/lib/modules" / release
    copies = []
    for name in dependency_closure((source / "modules.dep").read_text(), wanted):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, copy)
        copies.append(copy)
    for index in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copyfile(source / index, target / index)
    return tuple(copies)


def add_extra_modules(tree: Path, release: str, extra: tuple[Path, ...]) -> None:
    """Copy modules of our own to the image's `vinci` directory, where depmod finds them too."""
    target = tree / "usr/lib/modules" / release / "vinci"
    target.mkdir(parents=True, exist_ok=True)
    for module in extra:
        shutil.copyfile(module, target / module.name)


def guest_sources(
    guest: Path, folders: tuple[str, ...], packages: tuple[str, ...] = ()
) -> tuple[tuple[Path, str], ...]:
    """The files of `vinci/guest` that go into a root: (source, path in the root), sorted.

    `folders` is e.g. ("common", "app"); documents, C and Python sources in them are not copied. Of `packages`, which
    are Python's, nothing else is.
    """
    files = [(guest / "init" / name, path) for name, path in GUEST_FILES.items()]
    for folder in folders:
        for source in (guest / folder).glob("*"):
            if source.is_file() and source.suffix not in (".md", ".c", ".h", ".py", ".pyc"):
                files.append((source, f"usr/lib/vinci/{source.name}"))
    for package in packages:
        files += [(source, f"usr/lib/vinci/{package}/{source.name}") for source in (guest / package).glob("*.py")]
    return tuple(sorted(files, key=lambda pair: pair[1]))


def add_guest_files(tree: Path, files: tuple[tuple[Path, str], ...]) -> None:
    """Put our own files into `tree`. A file that begins with #! becomes executable; all belong to root."""
    (tree / "usr/lib/vinci").mkdir(mode=0o755)
    for source, path in files:
        content = source.read_bytes()
        target = tree / path
        target.parent.mkdir(mode=0o755, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755 if content.startswith(b"#!") else 0o644)
    (tree / "usr/lib/vinci/busybox").symlink_to("/usr/bin/busybox")
    for path, text in _FIXED_FILES.items():
        (tree / path).unlink(missing_ok=True)
        (tree / path).write_text(text)


_COMPILE = """
import os, py_compile, sys
never = py_compile.PycInvalidationMode.UNCHECKED_HASH
for top in sys.argv[1:]:
    for folder, _folders, names in os.walk(top):
        for name in names:
            if name.endswith(".py"):
                py_compile.compile(os.path.join(folder, name), doraise=True, quiet=1, invalidation_mode=never)
"""


def compile_python(tree: Path, log: Path) -> None:
    """Compile the Python sources of `tree` with its own interpreter.

    Debian's bytecode names the times of its sources, which all become one time in the image: Python would compile each
    module anew at each start, for most of the time that a start takes in an emulated guest.
    """
    folders = ["/usr/lib/python3", "/usr/lib/python3.11", "/usr/lib/vinci"]
    run(["chroot", str(tree), "/usr/bin/python3", "-I", "-S", "-B", "-c", _COMPILE, *folders], log=log)


def finish(tree: Path, spec: RootSpec, image: Path, manifest: Path, release: str, log: Path) -> None:
    """Index the modules of `tree`, write its manifest and pack it into the erofs file `image`."""
    compile_python(tree, log)
    run(["depmod", "-b", str(tree), release], log=log)
    write_manifest(manifest, spec.kind.value, scan(tree))
    run(["mkfs.erofs", "-zlz4hc", f"-T{_FILE_TIME}", f"-U{_IMAGE_UUID}", str(image), str(tree)], log=log)
