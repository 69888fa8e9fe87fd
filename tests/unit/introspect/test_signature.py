# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures of modules: only the kernel's own keys count."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from vinci.introspect.profile.signature import signer

MARK = b"~Module signature appended~\n"


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def signed(content: bytes, key: RSAPrivateKey) -> bytes:
    message = b"PKCS#7 before the signature" + key.sign(content, PKCS1v15(), SHA256())
    return content + message + struct.pack(">8xI", len(message)) + MARK


def test_the_signer_is_named(key: RSAPrivateKey) -> None:
    other = generate_private_key(65537, 2048)
    keys = {"CN=other": other.public_key(), "CN=kernel": key.public_key()}
    assert signer(signed(b"module", key), keys) == "CN=kernel"
    assert signer(b"module", keys) is None


def test_a_changed_module_or_a_foreign_key_is_refused(key: RSAPrivateKey) -> None:
    module = signed(b"module", key)
    for wrong, keys in (
        (b"nodule" + module[6:], {"CN=kernel": key.public_key()}),
        (module, {"CN=other": generate_private_key(65537, 2048).public_key()}),
        (module, {}),
        (b"module" + struct.pack(">8xI", 1 << 31) + MARK, {"CN=kernel": key.public_key()}),
    ):
        with pytest.raises(ValueError, match="no key of the kernel"):
            signer(wrong, keys)
