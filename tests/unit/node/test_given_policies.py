# SPDX-License-Identifier: GPL-2.0-or-later
"""Which policies a VM may have in force."""

from __future__ import annotations

from vinci.node.introspection.policies import Policies


def test_while_a_vm_loads_another_policy_either_may_be_in_force() -> None:
    policies = Policies()
    policies.starts("files", b"old")
    assert policies.of("files") == (b"old",)
    policies.changes("files", b"new")
    assert policies.of("files") == (b"old", b"new")
    policies.changed("files", b"new")
    assert policies.of("files") == (b"new",)


def test_loads_that_fail_leave_what_was_in_force_among_them() -> None:
    policies = Policies()
    policies.starts("files", b"old")
    for number in range(50):
        policies.changes("files", b"new %d" % (number // 2))
    assert policies.of("files") == (b"old", b"new 22", b"new 23", b"new 24")


def test_a_vm_without_a_policy_has_none_also_after_one_that_had() -> None:
    policies = Policies()
    policies.starts("files", b"old")
    policies.starts("files", None)
    assert policies.of("files") == policies.of("other") == ()
