# SPDX-License-Identifier: GPL-2.0-or-later
"""The hooks' check: all its parts in one sample."""

from __future__ import annotations

from vinci.introspect.code import Code
from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.guest import Guest
from vinci.introspect.hooks import chains, module_pointers, objects, pointers, security, strings, tracing
from vinci.introspect.hooks.trusted import HookTables
from vinci.introspect.sampling import Sample, check_by_samples


def check_hooks(guest: Guest, trusted: HookTables) -> CheckResult:
    """Find pointers, chains, tables and paths of the kernel through which foreign code would run.

    Args:
        trusted: what the guest's trusted image says of its hooks.
    """
    return check_by_samples(Check.HOOKS, guest, lambda: _sample(guest, Code.of(guest), trusted))


def _sample(guest: Guest, code: Code, trusted: HookTables) -> Sample:
    sample = Sample()
    for part in (
        pointers.look,
        module_pointers.look,
        chains.look,
        security.look,
        tracing.look,
        objects.look,
        strings.look,
    ):
        part(guest, code, trusted, sample)
    return sample
