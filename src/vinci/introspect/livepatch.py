# SPDX-License-Identifier: GPL-2.0-or-later
"""What our certified livepatch makes of kernel and nfsd, exactly: calls at the functions that it replaces, the pages of
code through which ftrace leads them to it, and its probe of one tracepoint.

Each patched function calls a page of its own, which has to be ftrace's template with the one handler of livepatches in
it; that handler goes where the record behind the page says, which has to be the module's own and unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from vinci.images.build import OWN_MODULE
from vinci.introspect.btf import Layout
from vinci.introspect.ftrace import operations_of
from vinci.introspect.guest import Guest
from vinci.introspect.loaded import LoadedModule, listed, plausible
from vinci.introspect.memory import Unreadable
from vinci.introspect.profile.module_file import ModuleFile
from vinci.introspect.sites import CALL, JMP, branch, pairs

_PROBES = {"selinux_audited": "on_audit"}
"""The tracepoints to which the module attaches a function of its own."""
_MAX_OBJECTS = 16
_MAX_FUNCTIONS = 64


@dataclass(frozen=True, slots=True)
class Replacement:
    """A function that the livepatch replaces: where its record (klp_func) lies in the module's core part, the module
    that has the function (empty: the kernel), its name, and what replaces it, again in the core part."""

    record: int
    module: str
    name: str
    by: int


@lru_cache(maxsize=4)
def replacements(file: ModuleFile, layout: Layout) -> tuple[Replacement, ...]:
    """The functions that a livepatch's file names, from its `struct klp_patch patch`."""
    base = 1 << 32
    core, _ = file.relocated(base, 0, 0, lambda name: 0)

    def word(address: int) -> int:
        return int.from_bytes(core.at(address, 8), "little")

    def text(address: int) -> str:
        return core.at(address, 256).partition(b"\0")[0].decode() if address else ""

    found = []
    objects = word(base + file.offsets["patch"] + layout.offset("klp_patch", "objs"))
    for number in range(_MAX_OBJECTS):
        entry = objects + number * layout.size("klp_object")
        functions = word(entry + layout.offset("klp_object", "funcs"))
        if not functions:
            break
        for index in range(_MAX_FUNCTIONS):
            record = functions + index * layout.size("klp_func")
            name = text(word(record + layout.offset("klp_func", "old_name")))
            if not name:
                break
            by = word(record + layout.offset("klp_func", "new_func"))
            owner = text(word(entry + layout.offset("klp_object", "name")))
            found.append(Replacement(record - base, owner, name, by - base))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Trampoline:
    """A verified page of ftrace's, and the function that calls it."""

    page: int
    function: int


class Livepatch:
    """Our livepatch as one guest has it loaded; nothing when it has not."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        modules = {module.name: module for module in plausible(guest, set(listed(guest)))}
        self.own = modules.get(OWN_MODULE)
        self.modules = modules
        self.trampolines = tuple(self._trampolines(self.own)) if self.own else ()

    def allowed(self) -> Iterator[tuple[int, bytes]]:
        """Addresses in the text of kernel and modules, and what is there because of the livepatch."""
        for trampoline in self.trampolines:
            yield trampoline.function, branch(CALL, trampoline.function, trampoline.page)
        if self.trampolines:
            for name in ("ftrace_call", "ftrace_regs_call"):
                place = self.guest.symbol(name)
                yield place, branch(CALL, place, self.guest.symbol("ftrace_ops_list_func"))
        if self.own:
            yield from self._probes(self.own)

    def _probes(self, own: LoadedModule) -> Iterator[tuple[int, bytes]]:
        guest, symbols = self.guest, self.guest.profile.symbols
        file = guest.profile.module(own.name)
        for tracepoint, function in _PROBES.items() if file else ():
            assert file is not None
            target = own.base + file.offsets[function]
            trampoline = guest.symbol(f"__SCT__tp_func_{tracepoint}")
            yield trampoline, branch(JMP, trampoline, target)
            start = symbols["__start_static_call_sites"]
            table = bytes(guest.profile.elf.image(start, symbols["__stop_static_call_sites"]))
            for place, key in zip(*(column.tolist() for column in pairs(start, table, 8)), strict=True):
                if key & ~3 == symbols[f"__SCK__tp_func_{tracepoint}"]:
                    address = guest.slid(place)
                    yield address, branch(JMP if key & 1 else CALL, address, target)

    def _trampolines(self, own: LoadedModule) -> Iterator[Trampoline]:
        """The pages that the patched functions call, each as it has to be."""
        guest, layout = self.guest, self.guest.layout
        file = guest.profile.module(own.name)
        for replacement in replacements(file, layout) if file else ():
            record = own.base + replacement.record
            function = self._function(replacement)
            if function is None:
                continue
            try:
                call = guest.read(function, 5)
                page = function + 5 + int.from_bytes(call[1:], "little", signed=True)
                old = guest.u64(record + layout.offset("klp_func", "old_func"))
                if call[0] == CALL and old == function and self._leads(page, own, replacement):
                    yield Trampoline(page, function)
            except Unreadable:
                continue

    def _function(self, replacement: Replacement) -> int | None:
        """The address of the function that is replaced."""
        if not replacement.module:
            return self.guest.symbol(replacement.name)
        module = self.modules.get(replacement.module)
        file = self.guest.profile.module(replacement.module)
        if module is None or file is None:
            return None
        offset = file.offsets.get(replacement.name)
        return None if offset is None else module.base + offset

    def _leads(self, page: int, own: LoadedModule, replacement: Replacement) -> bool:
        """Whether the page leads to that record, through the operations behind it (struct klp_ops), and only there; and
        the record to the module's own function."""
        guest, layout = self.guest, self.guest.layout
        record = own.base + replacement.record
        if guest.u64(record + layout.offset("klp_func", "new_func")) != own.base + replacement.by:
            return False
        operations = operations_of(guest, page, "ftrace_caller", "klp_ftrace_handler")
        if operations is None:
            return False
        handler = guest.u64(operations + layout.offset("ftrace_ops", "func"))
        stack = operations - layout.offset("klp_ops", "fops") + layout.offset("klp_ops", "func_stack")
        node = record + layout.offset("klp_func", "stack_node")
        return handler == guest.symbol("klp_ftrace_handler") and guest.u64(stack) == node and guest.u64(node) == stack

    def unused(self, pages: Iterable[int]) -> list[int]:
        """Which of the pages ftrace made to the byte though nothing calls them: a call would not be explained.

        The one for kprobes, which the kernel keeps when a kprobe was set once; or one that is called in a moment.
        """
        file = self.guest.profile.module(OWN_MODULE)
        known = replacements(file, self.guest.layout) if self.own and file else ()
        wanted = self.guest.symbol("kprobe_ftrace_ops")
        made = ("ftrace_regs_caller", "kprobe_ftrace_handler")
        return [
            page
            for page in pages
            if operations_of(self.guest, page, *made) == wanted
            or (self.own and any(self._leads(page, self.own, replacement) for replacement in known))
        ]
