# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel of running VMs seen from outside: clean ones, and ones whose memory is changed in every way that counts.

What is attacked is a private mapping of the VM's RAM file: the checker sees the change, the VM goes on unharmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from attacked import CHECKS, Attacked, halted, now, private
from seen_vm import Seen, boot_seen

from vinci.images.build import Images
from vinci.images.spec import SPEC
from vinci.introspect.attach import anchors
from vinci.introspect.executable import check_executable_pages
from vinci.introspect.findings import Check, Finding, Severity
from vinci.introspect.guest import Guest
from vinci.introspect.jit import programs
from vinci.introspect.kernel_text import check_rodata
from vinci.introspect.livepatch import Livepatch
from vinci.introspect.loaded import LoadedModule, in_tree, listed
from vinci.introspect.memory import Implausible
from vinci.introspect.paging import LARGE, NO_EXECUTE, mappings
from vinci.introspect.place import check_place
from vinci.introspect.profile import Profile, ensure_profile
from vinci.introspect.registers import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE, RESET_INSTRUCTION
from vinci.introspect.sites import CALL, JMP, NOPS, branch, pairs
from vinci.node.introspection.sweep import CONFIRMATIONS

LOOKS = 60
FUZZED = 60
LIVEPATCH = (
    "modprobe nfsd; insmod /lib/modules/$(uname -r)/vinci/vinci_nfsd.ko; "
    "until [ $(cat /sys/kernel/livepatch/vinci_nfsd/transition) = 0 ]; do sleep 0.1; done"
)


@pytest.fixture(scope="module")
def profile(images: Images) -> Profile:
    return ensure_profile(images)


@pytest.fixture(scope="module")
def machines(images: Images, profile: Profile) -> Iterator[dict[str, Seen]]:
    """An APP-VM, and an FS-VM with the livepatch in force; each with every module of its image."""
    with asyncio.Runner() as runner, contextlib.ExitStack() as running:
        seen = {}
        for kind in ("APP", "FS"):
            folder = Path(tempfile.mkdtemp(prefix="vinci-seen-", dir="/dev/shm"))
            rig, seen[kind] = boot_seen(runner, images, profile, folder, kind)
            running.callback(lambda rig=rig: runner.run(rig.close()))
        for root, kind in zip(SPEC.roots, ("APP", "FS"), strict=True):
            seen[kind].sh(f"modprobe -a {' '.join(root.modules)}")
        seen["FS"].sh(LIVEPATCH)
        yield seen


@pytest.fixture
def app(machines: dict[str, Seen]) -> Iterator[Attacked]:
    with halted(machines["APP"]):
        yield private(machines["APP"])


@pytest.fixture
def fs(machines: dict[str, Seen]) -> Iterator[Attacked]:
    with halted(machines["FS"]):
        yield private(machines["FS"])


def lines(found: list[Finding]) -> str:
    return "\n".join(f"{finding.check}: {finding.severity}: {finding.what} | {finding.where}" for finding in found)


def named(found: list[Finding], check: Check, *parts: str) -> bool:
    """Whether one finding of tampering by that check holds all the parts."""
    hits = [f for f in found if f.check is check and f.severity is Severity.TAMPERED]
    return any(all(part in f"{finding.where} | {finding.what}" for part in parts) for finding in hits)


@pytest.mark.parametrize("kind", ["APP", "FS"])
def test_a_clean_kernel_gives_no_alarm(machines: dict[str, Seen], kind: str) -> None:
    """Also while modules come and go, jump labels are flipped and processes are made."""
    seen = machines[kind]
    own = Attacked(seen.guest, seen.ram)
    module = "af_packet_diag" if kind == "APP" else "nft_log"
    load = f"while :; do modprobe -r {module}; modprobe {module}; ip rule show; sh -c true; done"
    seen.sh(f"setsid sh -c '{load}' >/dev/null 2>&1 & echo $! >/run/load")
    try:
        for _ in range(LOOKS):
            for _ in range(1 + CONFIRMATIONS):
                own.guest.processors = now(seen)
                found = own.findings()
                if not any(finding.check in (Check.PLACE, Check.ADDRESS_SPACES) for finding in found):
                    break
            assert not found, lines(found)
    finally:
        seen.sh("kill -KILL -- -$(cat /run/load)")


def test_one_byte_of_text_is_named_and_clean_again_when_put_back(app: Attacked) -> None:
    assert not app.findings()
    before = app.poke(app.guest.symbol("do_sys_openat2") + 0x14, b"\xcc")
    assert named(app.findings(), Check.TEXT, "do_sys_openat2+0x14")
    app.poke(app.guest.symbol("do_sys_openat2") + 0x14, before)
    assert not app.findings()


def jump_label(guest: Guest) -> tuple[int, int]:
    """Address and target of a long jump label that is off."""
    symbols = guest.profile.symbols
    start, end = symbols["__start___jump_table"], symbols["__stop___jump_table"]
    places, targets = pairs(start, bytes(guest.profile.elf.image(start, end)), 16)
    for place, target in zip(places.tolist(), targets.tolist(), strict=True):
        if symbols["_stext"] <= place < symbols["_etext"] and guest.read(guest.slid(place), 5) == NOPS[5]:
            return guest.slid(place), guest.slid(target)
    raise AssertionError("no jump label is off")


def test_a_jump_label_may_be_on_or_off_and_nothing_else(app: Attacked) -> None:
    place, target = jump_label(app.guest)
    app.poke(place, branch(JMP, place, target))
    assert not app.findings()
    app.poke(place, branch(JMP, place, target + 1))
    assert named(app.findings(), Check.TEXT, app.guest.describe(place))


def test_a_function_hook_at_the_call_site_of_ftrace_is_named(app: Attacked) -> None:
    place = app.guest.symbol("vfs_read")
    app.poke(place, branch(CALL, place, app.guest.symbol("vfs_write")))
    assert named(app.findings(), Check.TEXT, "vfs_read+0x")


@pytest.mark.parametrize(
    ("symbol", "offset"), [("sys_call_table", 0x10), ("ext4_file_operations", 0), ("linux_banner", 3)]
)
def test_read_only_data_is_named(app: Attacked, symbol: str, offset: int) -> None:
    address = app.guest.symbol(symbol) + offset
    app.poke(address, bytes([app.guest.read(address, 1)[0] ^ 1]))
    assert named(app.findings(), Check.RODATA, f"{symbol}+{offset:#x}")


def test_a_table_of_jump_labels_stays_the_images(app: Attacked) -> None:
    app.poke(app.guest.symbol("__start___jump_table") + 164, b"\x55")
    assert named(app.findings(), Check.RODATA, "__start___jump_table")
    fresh = replace(app.guest, verified={})  # though it never was seen otherwise
    assert named(list(check_rodata(fresh).findings), Check.RODATA, "__start___jump_table")


def test_a_data_page_that_becomes_executable_is_named(app: Attacked) -> None:
    module = app.module("erofs")
    page = module.base + module.size - 4096
    app.page_entry(page)[0] &= np.uint64(NO_EXECUTE - 1)
    found = app.findings()
    assert named(found, Check.EXECUTABLE_PAGES, f"{page:#x}", "belong to no certified code")
    assert named(found, Check.EXECUTABLE_PAGES, f"{page:#x}", "writable and executable")


def test_text_that_is_mapped_elsewhere_or_made_writable_is_named(app: Attacked) -> None:
    entry = app.page_entry(app.guest.symbol("vfs_read"))
    before = int(entry[0])
    entry[0] = np.uint64(before ^ 1 << 25)
    assert named(app.findings(), Check.EXECUTABLE_PAGES, "mapped elsewhere")
    entry[0] = np.uint64(before | 2)
    assert named(app.findings(), Check.EXECUTABLE_PAGES, "writable and executable")


def test_the_last_page_of_the_text_is_compared_to_its_end(app: Attacked) -> None:
    end = app.guest.symbol("_etext")
    app.poke(-(-end // 4096) * 4096 - 1, b"\xc3")
    assert named(app.findings(), Check.TEXT, "_etext+0x")


def test_a_large_page_that_reaches_beyond_the_text_is_named(app: Attacked) -> None:
    """Behind the text lies memory that the kernel gave back and hands out to whoever asks."""
    end = app.guest.symbol("_etext")
    entry = app.page_entry(end, level=2)
    assert not int(entry[0]) & LARGE
    entry[0] = np.uint64(app.guest.physical(end) & -(2 << 20) | int(entry[0]) & 0xFFF & ~2 | LARGE)
    assert named(app.findings(), Check.EXECUTABLE_PAGES, "512 executable pages that belong to no certified code")


def test_read_only_data_that_is_mapped_elsewhere_or_made_writable_is_named(app: Attacked) -> None:
    entry = app.page_entry(app.guest.symbol("sys_call_table"))
    before = int(entry[0])
    entry[0] = np.uint64(before ^ 1 << 25)
    assert named(app.findings(), Check.RODATA, "mapped elsewhere")
    entry[0] = np.uint64(before | 2)
    assert named(app.findings(), Check.RODATA, "writable")


def unlink(app: Attacked, module: LoadedModule, *, tree: bool = False, pointers: bool = False) -> None:
    """Hide a module as a rootkit does."""
    guest, layout = app.guest, app.guest.layout
    node = module.address + layout.offset("module", "list")
    following, previous = guest.u64(node), guest.u64(node + 8)
    app.word(previous, following)
    app.word(following + 8, previous)
    if tree:
        for copy in (0, 1):
            root = guest.symbol("mod_tree") + layout.offset("mod_tree_root", f"root.tree[{copy}].rb_node")
            path = f"core_layout.mtn.node.node[{copy}]"
            own = module.address + layout.offset("module", path)
            links = [root]
            while links and guest.u64(links[-1]) != own:
                at = links.pop()
                child = guest.u64(at)
                if child:
                    links += [child + layout.offset("rb_node", "rb_left"), child + layout.offset("rb_node", "rb_right")]
            assert links
            app.word(links[-1], 0)  # with all that hangs below it
    if pointers:
        for path in ("mkobj.mod", "core_layout.mtn.mod"):
            app.word(module.address + layout.offset("module", path), 0)


def test_a_module_taken_off_the_list_is_named(app: Attacked) -> None:
    module = app.module("erofs")
    unlink(app, module)
    found = app.findings()
    assert named(found, Check.MODULES, "module erofs", "not on the list")
    assert named(found, Check.EXECUTABLE_PAGES, f"{module.base:#x}")


def test_a_module_taken_out_of_list_and_tree_is_found_by_the_scan(app: Attacked) -> None:
    module = app.module("erofs")
    unlink(app, module, tree=True)
    assert all(module.address not in tree for tree in in_tree(app.guest))
    found = app.findings()
    assert named(found, Check.MODULES, "module erofs", "not on the list")
    assert named(found, Check.MODULES, "module erofs", "not in the tree")


def test_a_module_that_erased_every_trace_still_has_executable_pages(app: Attacked) -> None:
    module = app.module("erofs")
    unlink(app, module, tree=True, pointers=True)
    found = app.findings()
    assert not named(found, Check.MODULES, "module erofs")
    assert named(found, Check.EXECUTABLE_PAGES, f"{module.base:#x}", "belong to no certified code")


def test_the_text_of_a_module_that_is_being_freed_is_explained_while_it_is_the_files(app: Attacked) -> None:
    """As free_module() leaves it for a grace period; a rootkit that pretends so gains nothing but certified text."""
    module = app.module("qemu_fw_cfg")
    unlink(app, module)
    app.poke(module.address + app.guest.layout.offset("module", "state"), b"\3")
    assert not named(app.findings(), Check.EXECUTABLE_PAGES, f"{module.base:#x}")
    app.poke(module.base + 0x40, bytes([app.guest.read(module.base + 0x40, 1)[0] ^ 1]))
    assert named(app.findings(), Check.EXECUTABLE_PAGES, f"{module.base:#x}", "belong to no certified code")


def test_a_module_of_another_name_is_not_certified(app: Attacked) -> None:
    app.poke(app.module("erofs").address + app.guest.layout.offset("module", "name"), b"er0fs")
    found = app.findings()
    assert named(found, Check.MODULES, "module er0fs", "not certified")
    assert named(found, Check.EXECUTABLE_PAGES, "belong to no certified code")


def test_text_and_constants_of_a_module_are_named(app: Attacked) -> None:
    module = app.module("overlay")
    file = app.guest.profile.module("overlay")
    assert file
    operations = next(s for s in file.elf.symbols if s.name == "ovl_dir_operations")
    text = next(s for s in file.elf.symbols if s.name == "ovl_lookup")
    app.poke(module.base + file.core.offsets[text.section] + text.value + 0x20, b"\xcc")
    app.word(module.base + file.core.offsets[operations.section] + operations.value + 8, app.guest.symbol("vfs_read"))
    found = app.findings()
    assert named(found, Check.MODULES, "module overlay: ovl_lookup+0x20")
    assert named(found, Check.MODULES, "module overlay: ovl_dir_operations+0x")


def test_a_parameter_that_is_not_as_built_is_shown_and_is_no_alarm(app: Attacked) -> None:
    module, file = app.module("overlay"), app.guest.profile.module("overlay")
    assert file
    app.poke(module.base + file.offsets["ovl_metacopy_def"], b"\1")
    found = app.findings()
    assert [finding.severity for finding in found] == [Severity.NOTE]
    assert "parameter metacopy is 1 (built 0)" in lines(found)


def test_a_forced_module_is_named(app: Attacked) -> None:
    app.word(app.module("overlay").address + app.guest.layout.offset("module", "taints"), 1 << 1)
    assert named(app.findings(), Check.MODULES, "module overlay", "tainted: forced to load")


def test_a_process_with_a_kernel_half_of_its_own_is_named(app: Attacked) -> None:
    layout, guest = app.guest.layout, app.guest
    init = guest.u64(guest.symbol("init_task") + layout.offset("task_struct", "tasks"))
    space = guest.u64(init - layout.offset("task_struct", "tasks") + layout.offset("task_struct", "mm"))
    app.word(guest.u64(space + layout.offset("mm_struct", "pgd")) + 8 * 300, 0x1003)
    assert named(app.findings(), Check.ADDRESS_SPACES, "pid 1 (", "kernel half")


def test_a_hidden_process_with_a_kernel_half_of_its_own_is_named(app: Attacked) -> None:
    layout, guest = app.guest.layout, app.guest
    link = guest.u64(guest.symbol("init_task") + layout.offset("task_struct", "tasks"))
    following, before = guest.u64(link), guest.u64(link + 8)
    app.word(before, following)
    app.word(following + 8, before)
    space = guest.u64(link - layout.offset("task_struct", "tasks") + layout.offset("task_struct", "mm"))
    app.word(guest.u64(space + layout.offset("mm_struct", "pgd")) + 8 * 300, 0x1003)
    assert named(app.findings(), Check.ADDRESS_SPACES, "pid 1 (", "kernel half")


@pytest.mark.parametrize(
    ("register", "bit", "name"),
    [("cr0", CR0_WP, "CR0.WP"), ("cr4", CR4_SMEP, "CR4.SMEP"), ("efer", EFER_NXE, "EFER.NXE")],
)
def test_protection_that_is_switched_off_in_a_processor_is_named(
    app: Attacked, register: str, bit: int, name: str
) -> None:
    first, *others = app.guest.processors
    app.guest.processors = (replace(first, **{register: getattr(first, register) & ~bit}), *others)
    assert named(app.findings(), Check.PLACE, f"{name} is off")


def test_protection_of_user_memory_is_asked_for_once_it_was_seen(app: Attacked) -> None:
    """Nops in the place of one `clac` are what the kernel writes where no processor has it: the text allows them."""
    assert not check_place(app.guest).findings
    first, *others = app.guest.processors
    app.guest.processors = (replace(first, cr4=first.cr4 & ~CR4_SMAP), *others)
    app.poke(app.guest.slid(app.guest.profile.access_prevention), NOPS[3])
    assert named(list(check_place(app.guest).findings), Check.PLACE, "CR4.SMAP is off")


def test_a_processor_that_runs_no_64_bit_kernel_is_parked_or_named(app: Attacked) -> None:
    first, second = app.guest.processors[:2]
    parked = replace(second, efer=0, cr0=0x60000010, halted=True, instruction=RESET_INSTRUCTION)
    app.guest.processors = (first, parked)
    assert not check_place(app.guest).findings
    app.guest.processors = (first, replace(parked, halted=False, instruction=0x8000))
    assert named(list(check_place(app.guest).findings), Check.PLACE, "processor 1", "no 64-bit kernel", "0x8000")


def test_an_interrupt_gate_that_leads_elsewhere_is_named(app: Attacked) -> None:
    gate = app.guest.symbol("idt_table") + 16 * 14
    app.poke(gate, (app.guest.symbol("vfs_read") & 0xFFFF).to_bytes(2, "little"))
    assert named(app.findings(), Check.PLACE, "vector 14", "no entry of the kernel")


def test_another_kernel_is_named(app: Attacked) -> None:
    """As after a kexec: the processor's tables lead to a second copy of the text, 64 MiB from the first."""
    guest = app.guest
    size = guest.profile.symbols["_etext"] - guest.profile.start
    # KASLR may have put the kernel into the lower half of the memory or into the upper one.
    upwards = guest.physical_base < len(app.ram) // 2
    away = guest.physical_base + ((64 << 20) if upwards else -(64 << 20))
    guest.memory.view(away, size)[:] = guest.memory.view(guest.physical_base, size)
    assert anchors(guest.memory, guest.profile) == sorted([guest.physical_base, away])
    entry = app.page_entry(guest.symbol("_text"))
    entry[0] = np.uint64(int(entry[0]) - guest.physical_base + away)
    found = app.findings()
    assert named(found, Check.PLACE, "processor 0", f"runs another kernel, at {away:#x}")
    assert named(found, Check.PLACE, "the trusted kernel's text lies at")


@pytest.mark.parametrize("symbol", ["kexec_image", "kexec_crash_image"])
def test_a_kernel_that_waits_to_be_started_is_named(app: Attacked, symbol: str) -> None:
    app.word(app.guest.symbol(symbol), app.guest.symbol("init_task"))
    assert named(app.findings(), Check.PLACE, symbol, "another kernel is loaded")


def pack(app: Attacked) -> int:
    head = app.guest.symbol("pack_list")
    return app.guest.u64(app.guest.u64(head) + app.guest.layout.offset("bpf_prog_pack", "ptr"))


def test_code_hidden_in_a_pack_of_compiled_programs_is_named(app: Attacked) -> None:
    start = pack(app)
    app.poke(start + 0x100000, b"\x90")
    assert named(app.findings(), Check.EXECUTABLE_PAGES, f"{start:#x}+0x100000", "outside every program")


def compiled(app: Attacked) -> int:
    """Put a program of our own behind the compiled ones, beyond the space of the last; where its code begins."""
    start = pack(app)
    end = max((offset + size for offset, size in programs(app.guest.read(start, 1 << 20))), default=0)
    at = start + -(-end // 64) * 64
    app.poke(at, struct.pack("<I", 64) + b"\xcc" * 12 + b"\x31\xc0\xc3")
    return at + 16


def programs_found(app: Attacked, sandboxed: frozenset[str] | None) -> list[Finding]:
    """What a look says of the pack after the first one that saw it so."""
    for clock in (lambda: 0.0, lambda: 10.0):
        app.guest.passing.clock = clock
        app.guest.begin()
        found = check_executable_pages(app.guest, sandboxed).findings
    return [finding for finding in found if "compiled BPF program" in finding.what]


def test_a_compiled_program_that_no_filter_leads_to_is_named(app: Attacked) -> None:
    compiled(app)
    (found,) = programs_found(app, None)
    assert found.severity is Severity.TAMPERED
    assert "no filter leads to" in found.what


def test_a_compiled_program_that_filters_a_process_is_shown(app: Attacked) -> None:
    code, layout = compiled(app), app.guest.layout
    filter_ = app.guest.symbol("__log_buf")
    app.word(filter_ + layout.offset("seccomp_filter", "prev"), 0)
    app.word(filter_ + layout.offset("seccomp_filter", "prog"), filter_ + 1024)
    app.word(filter_ + 1024 + layout.offset("bpf_prog", "bpf_func"), code)
    first = app.guest.u64(app.guest.symbol("init_task") + layout.offset("task_struct", "tasks"))
    app.word(first - layout.offset("task_struct", "tasks") + layout.offset("task_struct", "seccomp.filter"), filter_)
    for sandboxed, severity in (
        (None, Severity.NOTE),
        (frozenset({"/usr/bin/busybox"}), Severity.NOTE),  # the program of the first process
        (frozenset({"/usr/sbin/sshd"}), Severity.TAMPERED),
    ):
        assert [finding.severity for finding in programs_found(app, sandboxed)] == [severity]


def test_the_real_mode_trampoline_is_compared(app: Attacked) -> None:
    area = mappings(app.guest.memory, app.guest.space, 0xFF00_0000_0000_0000, 1 << 64, executable_only=True)
    (first,) = area.virtual[area.physical < np.uint64(1 << 20)].tolist()[:1]
    app.poke(first + 0x20, bytes([app.guest.read(first + 0x20, 1)[0] ^ 1]))
    assert named(app.findings(), Check.EXECUTABLE_PAGES, f"{first:#x}", "belong to no certified code")


def test_the_livepatchs_calls_pages_and_records_are_exact(fs: Attacked) -> None:
    guest = fs.guest
    livepatch = Livepatch(guest)
    page, function = livepatch.trampolines[0].page, livepatch.trampolines[0].function
    assert not fs.findings()
    before = fs.poke(page + 0x10, b"\x90")
    assert named(fs.findings(), Check.EXECUTABLE_PAGES, f"{page:#x}", "belong to no certified code")
    fs.poke(page + 0x10, before)
    before = fs.poke(function, branch(CALL, function, livepatch.trampolines[1].page))  # another function's page
    assert named(fs.findings(), Check.MODULES, "module nfsd: ") or named(fs.findings(), Check.TEXT, "dentry_create")
    fs.poke(function, before)
    assert not fs.findings()


def test_a_livepatch_record_that_leads_elsewhere_is_named(fs: Attacked) -> None:
    own = fs.module("vinci_nfsd")
    file = fs.guest.profile.module("vinci_nfsd")
    assert file
    functions = next(s for s in file.elf.symbols if s.name == "nfsd_functions")
    record = own.base + file.core.offsets[functions.section] + functions.value
    fs.word(record + fs.guest.layout.offset("klp_func", "new_func"), fs.guest.symbol("vfs_read"))
    assert named(fs.findings(), Check.EXECUTABLE_PAGES, "belong to no certified code")
    fs.guest.verified.clear()  # a checker that sees it so from the start names the call, too
    assert named(fs.findings(), Check.MODULES, "module nfsd: nfsd_setuser+0x")


def test_the_handlers_of_ftrace_are_the_kernels(fs: Attacked) -> None:
    place = fs.guest.symbol("ftrace_call")
    fs.poke(place, branch(CALL, place, fs.guest.symbol("vfs_read")))
    assert named(fs.findings(), Check.TEXT, "ftrace_call+0x")


def places(guest: Guest) -> list[int]:
    """Words of the guest that lead the checks on: lists, trees, sizes, pointers."""
    layout, symbol = guest.layout, guest.symbol
    task, pgd = symbol("init_task"), symbol("init_top_pgt")
    found = [symbol("modules"), symbol("mod_tree") + 8, symbol("mod_tree") + 16, symbol("pack_list"), pgd + 4088]
    found += [task + layout.offset("task_struct", path) for path in ("tasks", "mm", "active_mm")]
    fields = ("list", "name", "state", "core_layout.base", "core_layout.size", "core_layout.text_size", "percpu")
    fields += ("init_layout.base", "init_layout.text_size", "mkobj.mod", "core_layout.mtn.node.node[0].rb_left")
    return found + [a + layout.offset("module", path) for a in listed(guest) for path in fields]


def test_no_memory_whatever_makes_a_check_crash_or_hang(machines: dict[str, Seen]) -> None:
    chance = random.Random(7)
    for number in range(FUZZED):
        seen = machines[("APP", "FS")[number % 2]]
        attacked = private(seen)
        guest = attacked.guest
        targets = places(guest)
        for _ in range(chance.choice((1, 2, 5))):
            at, odd = (
                chance.choice(targets),
                (0, 1, (1 << 64) - 1, 1 << 63, chance.choice(targets), chance.getrandbits(64)),
            )
            guest.begin()
            with contextlib.suppress(Implausible):
                if chance.random() < 0.3:  # page tables
                    attacked.page_entry(at)[0] ^= np.uint64(1 << chance.randrange(64))
                else:
                    attacked.word(at, chance.choice(odd))
        for check in CHECKS:
            guest.begin()
            with contextlib.suppress(Implausible):
                for finding in check(guest).findings:
                    assert finding.what.isprintable()
                    assert finding.where.isprintable()
