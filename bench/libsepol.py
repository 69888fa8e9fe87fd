# SPDX-License-Identifier: GPL-2.0-or-later
"""What `secilc` does, by the library that it is made of, without a process and files for each policy.

The binary is `secilc`'s, byte for byte (`tests/unit/readback/test_libsepol.py`, and `random_infrastructures.py` looks
again from time to time). Two things are left out, for they cost three quarters of the time and change nothing in it:
`neverallow` rules are not checked, and memory is not given back, so that a process should not compile thousands.
"""

from __future__ import annotations

from ctypes import CDLL, POINTER, byref, c_char_p, c_int, c_size_t, c_void_p, string_at
from typing import Any

POLICY_VERSION = 33
SELINUX = 0
"""SEPOL_TARGET_SELINUX."""


class _Library:
    def __init__(self) -> None:
        self._sepol = CDLL("libsepol.so.2")
        pointer = POINTER(c_void_p)
        self.start = self._function("cil_db_init", None, pointer)
        self.add = self._function("cil_add_file", c_int, c_void_p, c_char_p, c_char_p, c_size_t)
        self.compile = self._function("cil_compile", c_int, c_void_p)
        self.build = self._function("cil_build_policydb", c_int, c_void_p, pointer)
        self.image = self._function("sepol_policydb_to_image", c_int, c_void_p, c_void_p, pointer, POINTER(c_size_t))
        self.options = [
            (self._function(name, None, c_void_p, c_int), value)
            for name, value in (
                ("cil_set_mls", 1),
                ("cil_set_policy_version", POLICY_VERSION),
                ("cil_set_target_platform", SELINUX),
                ("cil_set_disable_neverallow", 1),
            )
        ]

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._sepol, name)
        function.restype, function.argtypes = result, arguments
        return function


_library = _Library()


def compile_in_process(cil: str) -> bytes:
    """The binary policy of a CIL text. Raises ValueError when it does not compile."""
    db, policy, image, size = c_void_p(), c_void_p(), c_void_p(), c_size_t()
    _library.start(byref(db))
    for option, value in _library.options:
        option(db, value)
    text = cil.encode()
    failed = (
        _library.add(db, b"policy.cil", text, len(text))
        or _library.compile(db)
        or _library.build(db, byref(policy))
        or _library.image(None, policy, byref(image), byref(size))
    )
    if failed:
        raise ValueError("the SELinux policy does not compile")
    return string_at(image, size.value)
