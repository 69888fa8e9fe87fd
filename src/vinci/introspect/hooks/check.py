# SPDX-License-Identifier: GPL-2.0-or-later
"""The hooks' check: all its parts in one sample."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vinci.introspect.code import Code
from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.guest import Guest
from vinci.introspect.hooks import chains, module_pointers, objects, pointers, security, strings, tracing
from vinci.introspect.hooks.trusted import HookTables
from vinci.introspect.sampling import Sample, check_by_samples

Part = Callable[[Guest, Code, HookTables, Sample], None]
_PARTS = (pointers.look, module_pointers.look, security.look, tracing.look, objects.look)
_WALKS = {"chains": chains.look, "strings": strings.look, "super blocks": objects.super_blocks}
"""Those that read value by value (`Guest.recalled`), and mostly the same ones."""


def check_hooks(guest: Guest, trusted: HookTables) -> CheckResult:
    """Find pointers, chains, tables and paths of the kernel through which foreign code would run.

    Args:
        trusted: what the guest's trusted image says of its hooks.
    """
    return check_by_samples(Check.HOOKS, guest, lambda: _sample(guest, Code.of(guest), trusted))


def _sample(guest: Guest, code: Code, trusted: HookTables) -> Sample:
    sample = Sample()
    for look in _PARTS:
        look(guest, code, trusted, sample)
    for name, walk in _WALKS.items():
        sample.join(guest.recalled(name, code.spans, partial(_alone, walk, guest, code, trusted)))
    return sample


def _alone(walk: Part, guest: Guest, code: Code, trusted: HookTables) -> Sample:
    sample = Sample()
    walk(guest, code, trusted, sample)
    return sample
