# SPDX-License-Identifier: GPL-2.0-or-later
"""Which modules become certified, and that a profile's stored ones are still those."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from test_module_file import ALLOC, EXEC, Object
from test_signature import signed

from vinci.images.build import OWN_MODULE, Images
from vinci.introspect.profile.store import _certify, _module

SIGNED_BY = "CN=kernel"


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def module(name: str) -> bytes:
    """A file that the kernel's loader would take for a module of that name."""
    made = Object()
    made.section(".text", ALLOC | EXEC, b"\xc3" * 16)
    made.section(".modinfo", ALLOC, f"license=GPL\0name={name}\0".encode())
    made.section(".gnu.linkonce.this_module", ALLOC, bytes(64))
    return made.file()


def certify(folder: Path, key: RSAPrivateKey, **files: bytes) -> dict[str, dict[str, str]]:
    """What is certified of a set of images with these files."""
    images = folder / "images"
    images.mkdir()
    for name, content in files.items():
        (images / f"{name}.ko").write_bytes(content)
    return _certify(cast(Images, SimpleNamespace(modules=images)), folder / "out", {SIGNED_BY: key.public_key()})


def test_signed_modules_and_our_own_are_certified_under_the_kernels_names(tmp_path: Path, key: RSAPrivateKey) -> None:
    files = {"nf-tables": signed(module("nf_tables"), key), "ours": module(OWN_MODULE)}
    certified = certify(tmp_path, key, **files)
    assert certified["nf_tables"] == {"sha256": hashlib.sha256(files["nf-tables"]).hexdigest(), "signer": SIGNED_BY}
    assert certified[OWN_MODULE]["signer"] == "built with the images"
    assert (tmp_path / "out/nf_tables.ko").read_bytes() == files["nf-tables"]


def test_a_module_without_a_signature_is_refused(tmp_path: Path, key: RSAPrivateKey) -> None:
    with pytest.raises(ValueError, match=r"evil.ko: the module has no signature"):
        certify(tmp_path, key, evil=module("evil"))


def test_a_module_signed_by_another_key_is_refused_whatever_its_name(tmp_path: Path, key: RSAPrivateKey) -> None:
    foreign = signed(module(OWN_MODULE), generate_private_key(65537, 2048))
    with pytest.raises(ValueError, match=r"ours.ko: the module's signature is by no key of the kernel"):
        certify(tmp_path, key, ours=foreign)


def test_what_is_no_module_is_refused(tmp_path: Path, key: RSAPrivateKey) -> None:
    with pytest.raises(ValueError, match=r"odd.ko"):
        certify(tmp_path, key, odd=signed(b"no ELF file", key))


def test_a_stored_module_that_was_changed_is_refused(tmp_path: Path, key: RSAPrivateKey) -> None:
    certified = certify(tmp_path, key, one=signed(module("one"), key))
    (tmp_path / "out").rename(tmp_path / "modules")
    digest = certified["one"]["sha256"]
    assert _module(tmp_path, "one", digest).name == "one"
    stored = tmp_path / "modules/one.ko"
    stored.write_bytes(stored.read_bytes().replace(b"GPL", b"BSD"))
    with pytest.raises(ValueError, match="the certified module one was changed"):
        _module(tmp_path, "one", digest)
