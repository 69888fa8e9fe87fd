# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of code that ftrace writes (create_trampoline in arch/x86/kernel/ftrace.c): its template, and a handler."""

from __future__ import annotations

from functools import lru_cache

from vinci.introspect.guest import Guest
from vinci.introspect.memory import PAGE_SIZE
from vinci.introspect.profile import Profile
from vinci.introspect.sites import CALL, JMP, NOPS, branch

_RET_SIZE = 5
_RET = b"\xc3\xcc\0\0\0"
"""What follows the template where returns are plain ones."""


def operations_of(guest: Guest, page: int, template: str, handler: str) -> int | None:
    """The address of the ftrace_ops that a page of code passes to `handler`; None when the page is not exactly that.

    Args:
        template: `ftrace_caller`, or `ftrace_regs_caller` when all registers are saved.
        handler: the kernel's function that the page has to call.

    Raises Unreadable, OverBudget.
    """
    profile = guest.profile
    before, after = _template(profile, guest.slide, template)
    code = before + branch(CALL, page + len(before), guest.symbol(handler)) + after
    size = len(code)
    content = guest.read(page, PAGE_SIZE)
    behind = size + _RET_SIZE
    thunks = (branch(JMP, page + size, guest.slid(link)) for link in profile.rules.rules.return_thunks)
    plain = branch(JMP, page + size, guest.symbol("__x86_return_thunk"))
    exact = content[:size] == code and content[size:behind] in (_RET, plain, *thunks)
    if not exact or content[behind + 8 :].strip(b"\0"):
        return None
    return int.from_bytes(content[behind : behind + 8], "little")


@lru_cache(maxsize=128)
def _template(profile: Profile, slide: int, name: str) -> tuple[bytes, bytes]:
    """The template as a page holds it, before and after its call of the handler."""
    start, end = profile.symbols[name], profile.symbols[f"{name}_end"]
    size = end - start
    code = bytearray(profile.relocated(start, end, slide).tobytes())
    pointer = profile.symbols[f"{name}_op_ptr"] - start
    code[pointer + 3 : pointer + 7] = (size + _RET_SIZE - pointer - 7).to_bytes(4, "little")
    if name == "ftrace_regs_caller":
        jump = profile.symbols["ftrace_regs_caller_jmp"] - start
        code[jump : jump + 2] = NOPS[2]  # it is for direct calls, which have no page of their own
    call = code.index(CALL, pointer + 7)
    return bytes(code[:call]), bytes(code[call + 5 :])
