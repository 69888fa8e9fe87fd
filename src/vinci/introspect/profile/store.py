# SPDX-License-Identifier: GPL-2.0-or-later
"""What is trusted of a set of images, as files that every checker maps: made once per set, beside it."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from vinci.images import inputs
from vinci.images.build import OWN_MODULE, Images, locked, made_once
from vinci.introspect import sites
from vinci.introspect.btf import Btf, Layout
from vinci.introspect.memory import Bytes
from vinci.introspect.profile.elf import Elf
from vinci.introspect.profile.kernel import Addresses, kernel_symbols, relocations, unpack_bzimage
from vinci.introspect.profile.module_file import ModuleFile
from vinci.introspect.profile.patching import KernelRules, allowed_in_text
from vinci.introspect.profile.signature import built_in_keys, signer
from vinci.introspect.sites import Allowed, alternatives
from vinci.introspect.symbols import Symbols

_MASK = 0xFFFF_FFFF_FFFF_FFFF
X86_FEATURE_PTI, X86_FEATURE_SMAP = 7 * 32 + 11, 9 * 32 + 20
ANCHOR_SIZE = 1 << 16
FORMAT = 1
"""Raised when older profiles must not be used any more for a reason that their code's hash does not show."""
Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
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
    allowed: tuple[Allowed, ...] = ()
    """What the kernel may have made of its text; offsets from `start`."""
    certified: dict[str, str] = field(default_factory=dict)
    """The modules that a guest may load: SHA-256 of their files by the names that the kernel gives them."""
    modules: dict[str, ModuleFile] = field(default_factory=dict)
    """Their files. All are in memory: whoever looks into guests may have given up reading files."""

    def relocated(self, start: int, end: int, slide: int) -> Bytes:
        """The trusted bytes between two link addresses, as the boot code relocates them for a slide; a copy."""
        image = np.frombuffer(self.elf.image(start, end), np.uint8).copy()
        for addresses, width, sign in (
            (self.relocations64, 8, 1),
            (self.relocations_inverse32, 4, -1),
            (self.relocations32, 4, 1),
        ):
            first, last = np.searchsorted(addresses, np.array([start, end - width + 1], np.uint64))
            spots = (addresses[first:last] - np.uint64(start)).astype(np.int64)[:, None] + np.arange(width)
            values = image[spots].view(f"<i{width}") + np.array(sign * slide, np.int64)
            image[spots] = values.astype(f"<i{width}").view(np.uint8)
        return image

    @cached_property
    def anchor(self) -> tuple[Bytes, npt.NDArray[np.bool_]]:
        """The first bytes of the text, and which of them neither relocation nor the kernel itself changes."""
        fixed = self.relocated(self.start, self.start + ANCHOR_SIZE, 0) == (
            self.relocated(self.start, self.start + ANCHOR_SIZE, 0x7F7F_7F7F)
        )
        for rows in self.allowed:
            spots = rows.at[:, None] + np.arange(rows.content.shape[1])
            fixed[spots[spots < ANCHOR_SIZE]] = False
        return self.relocated(self.start, self.start + ANCHOR_SIZE, 0), fixed

    @cached_property
    def access_prevention(self) -> int:
        """A place in the text where a kernel whose processor has SMAP puts `clac` or `stac` in place of nops."""
        return self._patched_for(X86_FEATURE_SMAP)

    @cached_property
    def isolation(self) -> int:
        """A place in the text where a kernel that isolates page tables puts nops in place of a jump over the switch."""
        return self._patched_for(X86_FEATURE_PTI)

    def _patched_for(self, feature: int) -> int:
        section = self.elf.by_name[".altinstructions"]
        for site in alternatives(section.address, bytes(self.elf.content(section.name))):
            if site[2] == feature and self.start <= site[0] < self.symbols["_etext"]:
                return site[0]
        raise ValueError(f"the kernel was built without what it needs for processor feature {feature}")

    @cached_property
    def entries(self) -> Addresses:
        """Where the kernel is entered by an exception or interrupt that has a function of its own."""
        pairs = zip(self.symbols.names, self.symbols.addresses.tolist(), strict=True)
        return np.array([address for name, address in pairs if name.startswith("asm_")], np.uint64)

    @property
    def read_only_end(self) -> int:
        """Where the read-only data that the image holds ends; zero bytes fill its last page."""
        end = self.symbols["__end_rodata"]
        return max(s.address + s.size for s in self.elf.sections if s.address + s.size <= end)

    @cached_property
    def rules(self) -> KernelRules:
        """How the kernel patches code."""
        return KernelRules(self.elf, self.symbols, self.layout)

    @cached_property
    def exports(self) -> dict[str, int]:
        """What modules may use of the kernel (struct kernel_symbol, asm/linkage of EXPORT_SYMBOL), by name."""
        pairs = zip(self.symbols.names, self.symbols.addresses.tolist(), strict=True)
        entries = {name[10:]: address for name, address in pairs if name.startswith("__ksymtab_")}
        return {
            name: address + int.from_bytes(self.elf.at(address, 4), "little", signed=True) & _MASK
            for name, address in entries.items()
        }

    def module(self, name: str) -> ModuleFile | None:
        """The certified module of that name."""
        return self.modules.get(name)

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
    code = [path.read_text() for path in (*sorted(Path(__file__).parent.glob("*.py")), Path(sites.__file__))]
    return images.kernel.parent.parent / f"profile-{images.digest}-{inputs.text_digest(FORMAT, code)[:12]}"


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
    progress("profile: patch sites")
    elf = Elf(vmlinux)
    layout = Layout(Btf(bytes(elf.content(".BTF"))))
    for rows in allowed_in_text(elf, Symbols(addresses, names), layout):
        np.save(out / f"allowed-{rows.content.shape[1]}-at.npy", rows.at.astype(np.uint32))
        np.save(out / f"allowed-{rows.content.shape[1]}.npy", rows.content)
    progress("profile: modules")
    about = {
        "kernel_release": images.kernel_release,
        "images": images.digest,
        "modules": _certify(images, out / "modules", built_in_keys(elf, Symbols(addresses, names))),
    }
    (out / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")


def _certify(images: Images, target: Path, keys: dict[str, RSAPublicKey]) -> dict[str, dict[str, str]]:
    """Copy the modules that a guest may load: signed by a key of the kernel, or our own build's. Raises ValueError."""
    target.mkdir()
    certified = {}
    for path in sorted(images.modules.glob("*.ko")):
        content = path.read_bytes()
        try:
            name = ModuleFile(content).name
            by = signer(content, keys)
        except ValueError as problem:
            raise ValueError(f"{path.name}: {problem}") from problem
        if by is None and name != OWN_MODULE:
            raise ValueError(f"{path.name}: the module has no signature")
        (target / f"{name}.ko").write_bytes(content)
        certified[name] = {"sha256": hashlib.sha256(content).hexdigest(), "signer": by or "built with the images"}
    return certified


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
        allowed=tuple(
            Allowed(np.load(at).astype(np.int64), np.load(at.with_name(at.name.replace("-at", ""))))
            for at in sorted(directory.glob("allowed-*-at.npy"))
        ),
        certified={name: module["sha256"] for name, module in about["modules"].items()},
        modules={name: _module(directory, name, module["sha256"]) for name, module in about["modules"].items()},
    )


def _module(directory: Path, name: str, digest: str) -> ModuleFile:
    content = (directory / "modules" / f"{name}.ko").read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{directory}: the certified module {name} was changed")
    return ModuleFile(content)


def _array(path: Path) -> Addresses:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
