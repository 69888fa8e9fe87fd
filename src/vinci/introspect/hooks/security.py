# SPDX-License-Identifier: GPL-2.0-or-later
"""The hooks of the security modules (linux/include/linux/lsm_hooks.h): the image's own, each on its own list.

All of them lie in the part of the image that is read-only after boot, so that part is read at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from blake3 import blake3

from vinci.introspect.btf import Kind
from vinci.introspect.code import Code
from vinci.introspect.findings import Check
from vinci.introspect.guest import Guest
from vinci.introspect.hooks.trusted import HookTables
from vinci.introspect.lists import Broken
from vinci.introspect.sampling import Sample

_LIMIT = 64


class SecurityHook(NamedTuple):
    """One hook on the list `head`: where it lies, which list it says that it is on, what it calls. Link addresses, but
    for `function`, which is the guest's. `own` is false for one outside the image, of which nothing else is known."""

    head: int
    address: int
    says: int
    function: int
    own: bool


def security_hooks(guest: Guest) -> list[SecurityHook]:
    """Every hook that the kernel calls, read once in a look. Raises Unreadable, Broken."""
    return guest.shared("security hooks", lambda: _security_hooks(guest))


def _security_hooks(guest: Guest) -> list[SecurityHook]:
    symbols = guest.profile.symbols
    start, end = symbols["__start_ro_after_init"] & -8, symbols["__end_ro_after_init"] & -8
    copy = guest.image(start, end - start).tobytes()
    return guest.recalled("security hooks", blake3(copy).digest(), lambda: _hooks_in(guest, start, end, copy))


def _hooks_in(guest: Guest, start: int, end: int, copy: bytes) -> list[SecurityHook]:
    """The hooks in what lies between two link addresses; of the guest nothing else is read."""
    symbols, layout = guest.profile.symbols, guest.layout
    words = memoryview(copy).cast("Q")
    heads, size = symbols["security_hook_heads"], layout.size("security_hook_list")
    head_at, function_at = layout.offset("security_hook_list", "head"), layout.offset("security_hook_list", "hook")
    found: list[SecurityHook] = []
    for head in range(heads, heads + layout.size("security_hook_heads"), 8):
        following = words[head - start >> 3]
        for _ in range(_LIMIT):
            if not following:
                break
            hook = following - guest.slide
            at = hook - start
            if not 0 <= at <= end - start - size or at % 8:
                found.append(SecurityHook(head, hook, 0, 0, own=False))
                break
            says, function = words[at + head_at >> 3] - guest.slide, words[at + function_at >> 3]
            found.append(SecurityHook(head, hook, says, function, own=True))
            following = words[at >> 3]
        else:
            raise Broken(f"the list of security hooks at {symbols.describe(head)} does not end")
    return found


def hook_name(guest: Guest, head: int) -> str:
    """What the security hook is called whose list begins at link address `head`: `security hook file_open`."""
    btf = guest.layout.btf
    offset = 8 * (head - guest.profile.symbols["security_hook_heads"])
    members = btf.members(btf.type(btf.find("security_hook_heads", Kind.STRUCT)))
    found = next((member.name for member in members if member.bits == offset), None)
    return f"security hook {found}" if found else guest.profile.symbols.describe(head)


def look(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """Check all of them. Raises Unreadable, Broken."""
    del trusted
    hooks = security_hooks(guest)
    sample.examined += len(hooks)
    good = code.are_functions(np.array([hook.function for hook in hooks], np.uint64))
    for hook, certified in zip(hooks, good.tolist(), strict=True):
        if not hook.own:
            what = "a security hook that is not the image's"
        elif hook.says != hook.head:
            what = "a security hook that belongs on another list"
        elif not certified:
            what = f"a security hook calls {code.describe(hook.function)}, which is no certified function"
        else:
            continue
        sample.add(("security", hook.head), Check.HOOKS, what, hook_name(guest, hook.head))
