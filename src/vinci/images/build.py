# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds the guest images once and finds them again: the room's entry is `ensure_images`.

The cache holds one directory for each set of images, named by the hash of everything that they are made of. A set is
built beside it and renamed into place when complete, so a directory with that name is always whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vinci import guest
from vinci.images import debian, inputs, rootfs
from vinci.images.initramfs import write_initramfs
from vinci.images.modules import dependency_closure
from vinci.images.run import ImageError, run
from vinci.images.spec import APP_POLICY, SPEC, ImageSpec, RootKind, RootSpec
from vinci.policy.app_policy import app_policy

__all__ = ["ImageError", "Images", "ensure_images", "find_images", "images_in"]

Progress = Callable[[str], None]
"""Called with the name of each step as it begins; from any thread."""

GUEST_DIRECTORY = Path(guest.__file__).parent
_BUILD_PREFIX = ".build-"
_KEPT_PREFIX = ".kept-"
CURRENT = "current"
"""Symlink to the set that was last asked for."""
POLICY_VERSION = "33"
"""Of the binary SELinux policy: Linux 5.8 and later."""
OWN_MODULE = "vinci_nfsd"
"""The module of `vinci/guest/kernel`."""


@dataclass(frozen=True, slots=True)
class Images:
    """A complete set of images. `digest` is the hash of all that went into it; `modules` holds every .ko file.

    `app_policy` is the binary SELinux policy that every APP-VM loads, the same bytes as in `app_root`.
    """

    kernel: Path
    initramfs: Path
    app_root: Path
    service_root: Path
    app_manifest: Path
    service_manifest: Path
    app_policy: Path
    modules: Path
    packages: Path
    kernel_release: str
    digest: str


def images_in(directory: Path, digest: str, spec: ImageSpec = SPEC) -> Images:
    """The set of images that lies in `directory`, whether it exists or not."""
    return Images(
        kernel=directory / "vmlinuz",
        initramfs=directory / "initramfs",
        app_root=directory / "app.erofs",
        service_root=directory / "service.erofs",
        app_manifest=directory / "app.manifest.json.gz",
        service_manifest=directory / "service.manifest.json.gz",
        app_policy=directory / "app.policy",
        modules=directory / "modules",
        packages=directory / "packages.json",
        kernel_release=spec.kernel_release,
        digest=digest,
    )


def ensure_images(cache_dir: Path, progress: Progress = lambda step: None, spec: ImageSpec = SPEC) -> Images:
    """Return the images of `spec`, building them when the cache has none made of the same inputs.

    Building needs root, the programs of scripts/install-packages and a Debian mirror. Concurrent callers wait for each
    other. Raises ImageError with the step that failed; then the cache is as it was before.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    with locked(cache_dir):
        ingredients = inputs.collect(spec, GUEST_DIRECTORY, cache_dir, progress)
        final = made_once(cache_dir, ingredients.digest, lambda work: _build(spec, ingredients, work, progress))
        _point_to(cache_dir / CURRENT, final.name)
    return images_in(final, ingredients.digest, spec)


def made_once(cache_dir: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache; when missing, `make(work)` fills `work`/out, which becomes it at the end.

    Whatever happens to `make`, there is never a directory `name` that is not whole. The caller holds the cache's lock.
    """
    final = cache_dir / name
    if final.is_dir():
        return final
    for leftover in cache_dir.glob(f"{_BUILD_PREFIX}*"):  # of builds that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=_BUILD_PREFIX, dir=cache_dir))
    try:
        (work / "out").mkdir(mode=0o755)
        make(work)
        (work / "out").rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final


def find_images(cache_dir: Path, spec: ImageSpec = SPEC) -> Images:
    """The images that `ensure_images` returned last, wherever the sources stand now: builds nothing, needs no apt.

    Raises ImageError when there are none.
    """
    try:
        directory = (cache_dir / CURRENT).resolve(strict=True)
    except OSError as missing:
        raise ImageError(f"no guest images in {cache_dir}: `make images` builds them") from missing
    return images_in(directory, directory.name, spec)


def _point_to(link: Path, name: str) -> None:
    temporary = link.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    temporary.replace(link)


@contextmanager
def locked(cache_dir: Path) -> Iterator[None]:
    """Hold the cache's lock, which goes with the process."""
    with (cache_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class _Kernel:
    """The unpacked kernel package and what was built for it."""

    tree: Path
    release: str
    extra_modules: tuple[Path, ...]


def _build(spec: ImageSpec, ingredients: inputs.Ingredients, work: Path, progress: Progress) -> None:
    if os.geteuid() != 0:
        raise ImageError("building the guest images needs root")
    os.umask(0o022)  # the images, and most files in them, are for everybody to read
    out = work / "out"
    (out / "modules").mkdir(mode=0o755)
    images = images_in(out, ingredients.digest, spec)
    out.chmod(0o755)
    images.packages.write_text(json.dumps(ingredients.versions, indent=1, sort_keys=True) + "\n")
    _app_policy(images, work)
    with ThreadPoolExecutor() as pool:
        trees = {
            root.kind: pool.submit(_debian_tree, root, ingredients.versions[root.kind], work, progress)
            for root in spec.roots
        }
        kernel = _kernel(spec, ingredients.versions["kernel"], work, progress)
        shutil.copyfile(kernel.tree / f"boot/vmlinuz-{spec.kernel_release}", images.kernel)
        finished = [
            pool.submit(_root, root, kernel, trees[root.kind].result(), images, work, progress) for root in spec.roots
        ]
        for root in finished:
            root.result()
    progress("initramfs")
    _initramfs(spec, kernel, work / RootKind.SERVICE / "tree", images)


def _app_policy(images: Images, work: Path) -> None:
    source = work / "app.cil"
    source.write_text(app_policy())
    secilc = ["secilc", "--mls", "true", "-c", POLICY_VERSION, "-f", "/dev/null", "-o", str(images.app_policy)]
    run([*secilc, str(source)], log=_log(work, "policy"))


def _log(work: Path, name: str) -> Path:
    return work / f"{name}.log"


def _kept(work: Path, name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The directory that `make` filled the last time it was called with this `key`; others of that name are removed."""
    kept = work.parent / f"{_KEPT_PREFIX}{name}-{key}"
    if not kept.is_dir():
        fresh = work / f"fresh-{name}"
        make(fresh)
        for stale in work.parent.glob(f"{_KEPT_PREFIX}{name}-*"):
            shutil.rmtree(stale)
        fresh.rename(kept)
    return kept


def _debian_tree(root: RootSpec, versions: dict[str, str], work: Path, progress: Progress) -> Path:
    """A copy of the pruned Debian tree of `root`; the tree itself is kept, as it changes less often than our files."""
    folder = work / root.kind
    folder.mkdir()
    log = _log(work, root.kind)

    def make(fresh: Path) -> None:
        progress(f"Debian packages of the {root.kind} image")
        debian.make_root(root.packages, fresh, folder, log)
        rootfs.prune(fresh, root.prune)

    kept = _kept(work, root.kind, inputs.tree_digest(root, versions), make)
    run(["cp", "-a", "--reflink=auto", str(kept), str(folder / "tree")], log=log)
    return folder / "tree"


def _kernel(spec: ImageSpec, versions: dict[str, str], work: Path, progress: Progress) -> _Kernel:
    folder = work / "kernel"
    folder.mkdir()
    log = _log(work, "kernel")
    image = f"linux-image-{spec.kernel_release}"
    version = versions[image]

    def make_tree(fresh: Path) -> None:
        progress(f"kernel {spec.kernel_release}")
        (package,) = debian.fetch({image: version}, folder, log)
        debian.unpack(package, fresh, log)
        run(["depmod", "-b", str(fresh), spec.kernel_release], log=log)

    def make_modules(fresh: Path) -> None:
        progress("kernel module of the FS-VM")
        headers = folder / "headers"
        for package in debian.fetch(dict.fromkeys(spec.kernel_build_packages, version), folder, log):
            debian.unpack(package, headers, log)
        fresh.mkdir()
        target = fresh / f"{OWN_MODULE}.ko"
        run(["sh", str(GUEST_DIRECTORY / "kernel/build.sh"), str(target), str(headers)], log=log)

    tree = _kept(work, "kernel", inputs.text_digest(spec.kernel_release, version), make_tree)
    sources = inputs.file_digests(GUEST_DIRECTORY / "kernel")
    modules = _kept(work, "module", inputs.text_digest(spec.kernel_release, version, sources), make_modules)
    return _Kernel(tree, spec.kernel_release, tuple(sorted(modules.glob("*.ko"))))


def _root(root: RootSpec, kernel: _Kernel, tree: Path, images: Images, work: Path, progress: Progress) -> None:
    progress(f"{root.kind} image")
    modules = rootfs.add_modules(tree, kernel.tree, kernel.release, root.modules)
    extra = kernel.extra_modules if root.kind is RootKind.SERVICE else ()
    rootfs.add_extra_modules(tree, kernel.release, extra)
    for module in (*modules, *extra):
        shutil.copyfile(module, images.modules / module.name)
    rootfs.add_guest_files(tree, rootfs.guest_sources(GUEST_DIRECTORY, root.guest, root.python))
    if root.kind is RootKind.APP:
        shutil.copyfile(images.app_policy, tree / APP_POLICY)
        image, manifest = images.app_root, images.app_manifest
    else:
        image, manifest = images.service_root, images.service_manifest
    rootfs.finish(tree, root, image, manifest, kernel.release, _log(work, root.kind))


def _initramfs(spec: ImageSpec, kernel: _Kernel, tree: Path, images: Images) -> None:
    source = kernel.tree / "lib/modules" / kernel.release
    names = dependency_closure((source / "modules.dep").read_text(), spec.boot_modules)
    modules = tuple(source / name for name in names)
    for module in modules:
        shutil.copyfile(module, images.modules / module.name)
    write_initramfs(images.initramfs, tree / "usr/bin/busybox", GUEST_DIRECTORY / "init/initramfs", modules)
