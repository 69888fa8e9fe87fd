# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures of kernel modules, against the keys that are built into the trusted kernel (kernel/module/signing.c)."""

from __future__ import annotations

import struct
import warnings

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from vinci.introspect.profile.elf import Elf
from vinci.introspect.symbols import Symbols

_MARK = b"~Module signature appended~\n"
_TRAILER = struct.Struct(">8xI")
"""struct module_signature: only the length of the signature counts, which is PKCS#7 without attributes."""


def built_in_keys(elf: Elf, symbols: Symbols) -> dict[str, RSAPublicKey]:
    """The kernel's built-in trusted keys (certs/system_certificates.S), by the subject of their certificates."""
    size = elf.u64(symbols["system_certificate_list_size"])
    rest = bytes(elf.at(symbols["system_certificate_list"], size))
    keys: dict[str, RSAPublicKey] = {}
    while rest:
        length = 4 + int.from_bytes(rest[2:4], "big")  # a DER sequence of 256 bytes to 64 KiB
        with warnings.catch_warnings(action="ignore"):  # the build's own certificate has an odd serial number
            certificate = x509.load_der_x509_certificate(rest[:length])
        key = certificate.public_key()
        if isinstance(key, RSAPublicKey):
            keys[certificate.subject.rfc4514_string()] = key
        rest = rest[length:]
    return keys


def signer(module: bytes, keys: dict[str, RSAPublicKey]) -> str | None:
    """Whose key signed the module; None when it has no signature. Raises ValueError when no key made its signature."""
    if not module.endswith(_MARK):
        return None
    end = len(module) - len(_MARK) - _TRAILER.size
    (length,) = _TRAILER.unpack_from(module, end)
    content, signature = module[: end - length], module[end - length : end]
    for name, key in keys.items():
        try:
            # the signature proper is the last part of the PKCS#7 message
            key.verify(signature[-key.key_size // 8 :], content, PKCS1v15(), SHA256())
        except InvalidSignature:
            continue
        return name
    raise ValueError("the module's signature is by no key of the kernel")
