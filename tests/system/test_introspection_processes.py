# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes, their pages, sniffers, hooks and SELinux of running VMs, seen from outside: clean and attacked ones."""

from __future__ import annotations

import asyncio
import random
import re
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from looks import Trusted, findings, lines, results
from seen_vm import Seen, boot_seen

from vinci.introspect.findings import Severity
from vinci.introspect.guest import Guest
from vinci.introspect.linear import LinearMap
from vinci.introspect.memory import GuestMemory
from vinci.introspect.network import check_network
from vinci.introspect.sampling import UNSETTLED_LOOKS
from vinci.introspect.slabs import Slabs
from vinci.introspect.tasks import Task, TaskReader, listed

CLEAN_LOOKS = 75
"""Under each load; `bench/clean_sweeps.py` makes the many."""
FUZZED_LOOKS = 150
MOVING_LOOKS = 2 * UNSETTLED_LOOKS


@pytest.fixture(scope="module")
def app(trusted: Trusted, runner: asyncio.Runner) -> Iterator[Seen]:
    folder = Path(tempfile.mkdtemp(prefix="vinci-seen-", dir="/dev/shm"))
    rig, seen = boot_seen(runner, trusted.images, trusted.profile, folder, "APP")
    yield seen
    runner.run(rig.close())


LOADS = {
    "idle": "sleep 1000",
    "forks": "while :; do for i in 1 2 3 4 5 6 7 8; do /bin/true & done; wait; done",
    "page cache": "while :; do find / -xdev -type f 2>/dev/null | head -n 3000 | xargs cat >/dev/null 2>&1; "
    "echo 3 >/proc/sys/vm/drop_caches; python3 -c 'import json, ssl, asyncio'; ls -R /usr >/dev/null; done",
}


@pytest.mark.parametrize("load", LOADS)
def test_a_clean_guest_gives_no_alarm(app: Seen, trusted: Trusted, load: str) -> None:
    app.sh(f"setsid sh -c {load_word(LOADS[load])} >/dev/null 2>&1 & echo $! >/run/load")
    try:
        for _ in range(CLEAN_LOOKS):
            found = findings(app.guest, trusted, trusted.app)
            assert not found, lines(found)
    finally:
        app.sh("kill -KILL -- -$(cat /run/load); while pgrep -g $(cat /run/load) >/dev/null; do sleep 0.1; done")


CUT_SHORT = """
for n in 1 2 3 4 5 6; do setsid sh -c 'while :; do (/bin/true); done' >/dev/null 2>&1 & echo $! >/run/load.$n; done
sleep 0.2
for n in 1 2 3 4 5 6; do kill -KILL -- -$(cat /run/load.$n); done
sleep 1
"""
"""Shells that are killed while they fork, some of them in the middle of it."""


def cut_short(guest: Guest) -> list[int]:
    """Records of tasks that are free, and of which `usage` says that they are not."""
    guest.begin(budget=guest.budget)  # no look of its own
    linear, layout = LinearMap.of(guest), guest.layout
    slabs = Slabs.of(linear)
    records = slabs.objects("task_struct_cachep")
    usage = linear.words(records, layout.offset("task_struct", "usage")) & np.uint64(0xFFFF_FFFF)
    return [record for record in records[usage != 0].tolist() if slabs.is_free("task_struct_cachep", record)]


def test_a_fork_that_a_signal_cut_short_is_no_hidden_process(app: Seen, trusted: Trusted) -> None:
    """Its record stays as it is until it is used again: here for eight looks, a minute apart by the guest's clock."""
    guest = app.guest
    clock, later = guest.passing.clock, 0.0
    try:
        for _ in range(60):
            app.sh(CUT_SHORT)
            left, looks = cut_short(guest), 0
            while left and looks < 8:
                later, looks = later + 60, looks + 1
                guest.passing.clock = lambda now=later: clock() + now  # type: ignore[misc]
                found = findings(guest, trusted, trusted.app)
                assert not found, lines(found)
                still = cut_short(guest)
                left = [record for record in left if record in still]
            if left:
                return
        raise AssertionError("no such record was left for long enough")
    finally:
        guest.passing.clock = clock


def test_a_record_is_free_exactly_when_the_allocator_has_it(app: Seen) -> None:
    app.guest.begin()
    linear = LinearMap.of(app.guest)
    slabs = Slabs.of(linear)
    records = slabs.objects("task_struct_cachep")
    usage = linear.words(records, app.guest.layout.offset("task_struct", "usage")) & np.uint64(0xFFFF_FFFF)
    alive = listed(app.guest)
    assert alive <= set(records.tolist())
    assert not any(slabs.is_free("task_struct_cachep", record) for record in alive)
    unused = records[usage == 0].tolist()
    assert unused
    # One that was freed only now may wait for RCU to be given back.
    assert sum(slabs.is_free("task_struct_cachep", record) for record in unused) >= len(unused) - 2
    assert not slabs.is_free("task_struct_cachep", records[0].item() + 64)


def load_word(script: str) -> str:
    return "'" + script.replace("'", "'\\''") + "'"


STOP = "kill -KILL $(cat /run/evil) || true"


def started(command: str, ready: str) -> str:
    """A script that starts a command and waits until the condition `ready` holds."""
    return f"rm -f /run/ready; setsid {command} >/run/log 2>&1 & echo $! >/run/evil; " + (
        f"until {ready}; do kill -0 $(cat /run/evil) || {{ cat /run/log; exit 1; }}; sleep 0.1; done"
    )


def runs(program: str, name: str) -> str:
    """The condition that the started process runs that program under its new name.

    While execve() takes the old memory apart the link already leads to the new program, but the name is the old one's.
    """
    return f"readlink /proc/$(cat /run/evil)/exe | grep -q {program} && grep -qx '{name}' /proc/$(cat /run/evil)/comm"


def python(code: str) -> str:
    """A script that starts a Python program and waits until it has done what it is for."""
    code += "; open('/run/ready', 'w'); import time; time.sleep(1000)"
    return started(f"python3 -c {load_word(code)}", "[ -e /run/ready ]")


@dataclass(frozen=True)
class Attack:
    """What is done in the guest as root, how it is taken back, and what has to be said of it and where."""

    do: str
    undo: str
    what: str
    where: str
    severity: Severity = Severity.TAMPERED


SELF_PATCHING = """
import re
lines = open('/proc/self/maps').read().splitlines()
end = next(int(l.split('-')[1].split()[0], 16) for l in lines if ' r-xp ' in l and 'python3' in l)
memory = open('/proc/self/mem', 'r+b', 0)
memory.seek(end - 4096); byte = memory.read(1); memory.seek(end - 4096); memory.write(byte)
open('/run/ready', 'w')
import time; time.sleep(1000)
"""
FILELESS = """
import os
file = os.memfd_create('x')
os.write(file, open('/usr/bin/sleep', 'rb').read())
os.execve(file, ['sleep', '1000'], {})
"""
ATTACKS = {
    "packet socket": Attack(
        python("import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300)"),
        STOP,
        "packet socket, held open",
        r"pid \d+ \(python3\) file \d+",
    ),
    "raw socket": Attack(
        python("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
        STOP,
        "raw socket",
        r"pid \d+ \(python3\) file \d+",
        Severity.NOTE,
    ),
    "promiscuous": Attack(
        "ip link set eth0 promisc on", "ip link set eth0 promisc off", "packets that are not its own", "eth0"
    ),
    "anonymous code": Attack(
        python("import mmap; m = mmap.mmap(-1, 4096, prot=7); m[0] = 195"),
        STOP,
        "no file's|not the image's",
        r"pid \d+ \(python3\) at 0x[0-9a-f]+, writable",
    ),
    "fileless program": Attack(
        started(f"python3 -c {load_word(FILELESS)}", runs("memfd", r"memfd:x\|[0-9]\+")),
        STOP,
        "a program that is not the image's",
        r"pid \d+ \((memfd:x|\d+)\) /memfd:x",  # the file's name, or its number, by the kernel's version
    ),
    "self-patching": Attack(
        started(f"python3 -c {load_word(SELF_PATCHING)}", "[ -e /run/ready ]"),
        STOP,
        "no file's",
        r"pid \d+ \(python3\) at 0x[0-9a-f]+",
    ),
    "copied program": Attack(
        "cp /usr/bin/sleep /tmp/innocent; " + started("/tmp/innocent 1000", runs("innocent", "innocent")),
        STOP + "; rm -f /tmp/innocent",
        "a program that is not the image's",
        r"pid \d+ \(innocent\) /tmp/innocent",
    ),
    "core pattern": Attack(
        "echo '|/tmp/x %p' >/proc/sys/kernel/core_pattern",
        "echo core >/proc/sys/kernel/core_pattern",
        r"where core dumps go was changed from 'core' to '\|/tmp/x %p'",
        "core_pattern",
    ),
    "module loader": Attack(
        "echo /tmp/x >/proc/sys/kernel/modprobe",
        "echo /sbin/modprobe >/proc/sys/kernel/modprobe",
        "the program that loads modules was changed",
        "modprobe_path",
    ),
    "kprobe": Attack(
        "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; cd /sys/kernel/tracing && "
        "echo 'p:evil do_sys_openat2' >kprobe_events && echo 1 >events/kprobes/evil/enable",
        "cd /sys/kernel/tracing && echo 0 >events/kprobes/evil/enable && echo >kprobe_events; cd /; "
        "umount /sys/kernel/tracing",
        "kprobe",
        "do_sys_openat2",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_from_inside_is_named_and_gone_when_taken_back(app: Seen, trusted: Trusted, name: str) -> None:
    attack = ATTACKS[name]
    app.sh(attack.do)
    try:
        found = findings(app.guest, trusted, trusted.app)
    finally:
        app.sh(attack.undo)
    named = [f for f in found if re.search(attack.what, f.what) and re.search(attack.where, f.where)]
    assert named, lines(found)
    assert named[0].severity is attack.severity
    app.sh("while kill -0 $(cat /run/evil) 2>/dev/null; do sleep 0.1; done")
    left = findings(app.guest, trusted, trusted.app)
    assert not left, lines(left)


LISTENS = "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons({bound}))"
GOOSE, ALL = 0x88B8, 0x0003


@pytest.mark.parametrize(
    ("listens", "declared", "severity"),
    [
        (LISTENS.format(bound=GOOSE), {GOOSE}, Severity.NOTE),
        (LISTENS.format(bound=GOOSE) + "; s.bind(('eth0', 0))", {GOOSE}, Severity.NOTE),
        (LISTENS.format(bound=GOOSE), {0x88BA}, Severity.TAMPERED),
        (LISTENS.format(bound=GOOSE), set(), Severity.TAMPERED),
        (LISTENS.format(bound=ALL), {GOOSE, ALL}, Severity.TAMPERED),
    ],
)
def test_a_packet_socket_for_a_declared_ethertype_is_a_note(
    app: Seen, listens: str, declared: set[int], severity: Severity
) -> None:
    app.sh(python(listens))
    try:
        app.guest.begin()
        found = check_network(app.guest, declared).findings
    finally:
        app.sh(STOP)
    grave = any(finding.severity is Severity.TAMPERED for finding in found)
    assert grave is (severity is Severity.TAMPERED), lines(list(found))
    assert any("held open" in finding.what for finding in found)


MAPPED_ANEW = """
import mmap
open('/run/ready', 'w')
while True:
    new = mmap.mmap(-1, 4096, prot=7)
    new[0] = 195
    old = new
"""
MOVING = {
    "core pattern": (
        ": >/run/ready; while :; do i=$((i+1)); echo '|/tmp/x '$i >/proc/sys/kernel/core_pattern; done",
        "core dumps go",
    ),
    "short-lived programs": (": >/run/ready; while :; do /tmp/innocent 0.01; done", "not the image's"),
    "code mapped anew": (f"exec python3 -c {load_word(MAPPED_ANEW)}", "no file's|not the image's"),
}
"""Tampering that is never the same in two samples: what is done over and over, and what is said of it."""


@pytest.mark.parametrize("name", MOVING)
def test_an_attack_that_moves_all_the_time_is_named(app: Seen, trusted: Trusted, name: str) -> None:
    script, what = MOVING[name]
    start = f"setsid sh -c {load_word(script)} >/dev/null 2>&1 & echo $! >/run/load"
    app.sh(f"cp /usr/bin/sleep /tmp/innocent; rm -f /run/ready; {start}; until [ -e /run/ready ]; do sleep 0.1; done")
    try:
        found = [f for _ in range(MOVING_LOOKS) for f in findings(app.guest, trusted, trusted.app)]
    finally:
        app.sh("kill -KILL -- -$(cat /run/load); while pgrep -g $(cat /run/load) >/dev/null; do sleep 0.1; done")
        app.sh("echo core >/proc/sys/kernel/core_pattern; rm -f /tmp/innocent")
    assert any(re.search(what, finding.what) for finding in found), lines(found)
    app.guest.unsettled.clear()
    left = findings(app.guest, trusted, trusted.app)
    assert not left, lines(left)


def evil_task(seen: Seen) -> Task:
    """The task of the process that was started last: by its pid, as one that just ended may still have its name."""
    pid = int(seen.sh("cat /run/evil"))
    reader = TaskReader(seen.guest)
    return next(task for task in map(reader.read, listed(seen.guest)) if task.pid == pid)


def off_the_list(seen: Seen, task: Task) -> Callable[[], object]:
    """Take a process off the list of processes, as a rootkit does; what puts it back."""
    link = task.address + seen.guest.layout.offset("task_struct", "tasks")
    following, before = struct.unpack("<2Q", seen.guest.read(link, 16))
    seen.poke_words(before, following)
    seen.poke_words(following + 8, before)

    def back() -> None:
        seen.poke_words(following + 8, link)
        seen.poke_words(before, link)

    return back


def out_of_the_table(seen: Seen, task: Task) -> Callable[[], object]:
    """Let the process's pid lead to no process; what puts it back."""
    pid = seen.guest.u64(task.address + seen.guest.layout.offset("task_struct", "thread_pid"))
    at = pid + seen.guest.layout.offset("pid", "tasks")
    before = seen.poke_words(at, 0)
    return lambda: seen.poke(at, before)


@pytest.mark.parametrize("ways", [(off_the_list,), (out_of_the_table,), (off_the_list, out_of_the_table)])
def test_a_hidden_process_is_named(
    app: Seen, trusted: Trusted, ways: tuple[Callable[..., Callable[[], object]], ...]
) -> None:
    app.sh(started("sleep 777", runs("sleep", "sleep")))
    app.guest.begin()
    task = evil_task(app)
    undo = [way(app, task) for way in ways]
    hidden, found, deadline = [], [], time.monotonic() + 10  # one that is just being made is believed for a moment
    try:
        while not hidden and time.monotonic() < deadline:
            found = findings(app.guest, trusted, trusted.app)
            hidden = [finding for finding in found if "it is hidden" in finding.what]
    finally:
        for back in reversed(undo):
            back()
    app.sh(STOP)
    assert [finding.where for finding in hidden] == [f"pid {task.pid} (sleep) /usr/bin/sleep"], lines(found)


def clean_copy(app: Seen, trusted: Trusted) -> tuple[bytearray, Guest]:
    """A copy of a VM's memory, in which time stands still. The VM runs on: not every copy is of one moment."""
    for _ in range(20):
        copy = bytearray(app.ram[:])
        guest = Guest(
            GuestMemory(copy, app.guest.memory.regions),
            trusted.profile,
            app.guest.processors,
            app.guest.slide,
            app.guest.physical_base,
            app.guest.space,
        )
        guest.passing.clock = lambda: 0.0
        found = findings(guest, trusted, trusted.app)
        if not found:
            return copy, guest
    raise AssertionError(lines(found))


def test_a_hostile_guest_neither_crashes_nor_hangs_the_checks(app: Seen, trusted: Trusted) -> None:
    """Words of the kernel's data and of its objects are replaced by what leads astray, in a copy of the VM's memory."""
    chance = random.Random(1)
    copy, guest = clean_copy(app, trusted)
    guest.begin()
    objects = list(listed(guest))
    places = [guest.physical(address) for address in objects]
    image = guest.physical_base + trusted.profile.symbols["_sdata"] - trusted.profile.start
    size = trusted.profile.symbols["_end"] - trusted.profile.symbols["_sdata"]
    offsets = [
        guest.layout.offset("task_struct", name) for name in ("tasks", "signal", "mm", "thread_pid", "files", "pid")
    ]
    astray = [
        0,
        1,
        8,
        0xFFFFFFFFFFFFFFF8,
        0x4141414141414141,
        guest.symbol("init_task"),
        *objects[:3],
        0xFF00000000000000,
    ]
    region = guest.memory.regions[0].physical - guest.memory.regions[0].offset
    for _ in range(FUZZED_LOOKS):
        undo = []
        for _ in range(chance.randint(1, 6)):
            at = (
                chance.choice(places) + chance.choice(offsets)
                if chance.random() < 0.5
                else image + chance.randrange(size) & -8
            )
            at -= region
            undo.append((at, copy[at : at + 8]))
            struct.pack_into("<Q", copy, at, chance.choice(astray))
        results(guest, trusted, trusted.app)
        for at, before in reversed(undo):
            copy[at : at + 8] = before
    left = findings(guest, trusted, trusted.app)
    assert not left, lines(left)
