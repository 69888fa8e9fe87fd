# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays the tests' rootkit in a VM: one trick at a time, on and off."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from fs_rig.rig import BOOT_SECONDS, Machine

from vinci.node.channel import ChannelError

HERE = Path(__file__).parent


class Trick(StrEnum):
    """What the rootkit can do; the values are its own names (`rootkit/*.c`, `rootkit/malware.py`)."""

    FTRACE = "ftrace"
    KPROBE_ENTRY = "kprobe-entry"
    KPROBE_BODY = "kprobe-body"
    INLINE_HOOK = "inline-hook"
    SYSCALL_TABLE = "syscall-table"
    MODULE_TEXT = "module-text"
    KERNEL_PAGE = "kernel-page"
    ADDRESS_SPACE = "address-space"
    WRITE_PROTECT = "write-protect"
    PROC_OPS = "proc-ops"
    FILE_OPS = "file-ops"
    NETFILTER = "netfilter"
    KEY_NOTIFIER = "key-notifier"
    MODULE_NOTIFIER = "module-notifier"
    DEVICE_NOTIFIER = "device-notifier"
    CORE_PATTERN = "core-pattern"
    MODPROBE_PATH = "modprobe-path"
    HIDE_MODULE_LIST = "hide-module-list"
    HIDE_MODULE_SYSFS = "hide-module-sysfs"
    HIDE_MODULE_TREE = "hide-module-tree"
    HIDE_TASK = "hide-task"
    HIDE_PID = "hide-pid"
    HIDE_SIBLINGS = "hide-siblings"
    PACKET_HANDLER = "packet-handler"
    SELINUX_ENFORCING = "selinux-enforcing"
    SELINUX_HOOK = "selinux-hook"
    # programs: no module is loaded
    PACKET_SOCKET = "packet-socket"
    PROMISCUOUS = "promiscuous"
    XDP = "xdp"
    SELF_PATCHING = "self-patching"
    ANONYMOUS_CODE = "anonymous-code"
    FILELESS_PROGRAM = "fileless-program"
    INJECTED_CODE = "injected-code"

    @property
    def is_program(self) -> bool:
        """Whether the trick is one of `malware.py`, not of the kernel module."""
        return self in _PROGRAMS

    @property
    def wants_victim(self) -> bool:
        """Whether the trick is done to a process: `Rootkit.do` starts one."""
        return self in _ON_A_PROCESS


_PROGRAMS = frozenset(
    {
        Trick.PACKET_SOCKET,
        Trick.PROMISCUOUS,
        Trick.XDP,
        Trick.SELF_PATCHING,
        Trick.ANONYMOUS_CODE,
        Trick.FILELESS_PROGRAM,
        Trick.INJECTED_CODE,
    }
)
_ON_A_PROCESS = frozenset(
    {Trick.ADDRESS_SPACE, Trick.HIDE_TASK, Trick.HIDE_PID, Trick.HIDE_SIBLINGS, Trick.INJECTED_CODE}
)
_FOLDER = "/root/rootkit"


class Rootkit:
    """The rootkit in one VM. Its module is loaded by `load`, or by the first trick that needs it."""

    def __init__(self, machine: Machine, module: Path) -> None:
        self.machine = machine
        self.module = module
        self.loaded = False
        self.victim = 0
        self.program = 0

    async def install(self) -> None:
        """Put the rootkit's files into the VM; nothing runs yet."""
        await self.machine.put(f"{_FOLDER}/rootkit.ko", self.module.read_bytes())
        await self.machine.put(f"{_FOLDER}/malware.py", (HERE / "malware.py").read_bytes())

    async def load(self) -> None:
        """Load the kernel module; no trick is on."""
        if not self.loaded:
            await self.machine.ok(f"insmod {_FOLDER}/rootkit.ko")
            self.loaded = True

    async def unload(self) -> None:
        """Unload the kernel module, which takes back what was left on."""
        if self.loaded:
            await self.machine.ok("rmmod rootkit")
            self.loaded = False

    async def do(self, trick: Trick) -> int:
        """Switch a trick on; returns the PID of the process that it is about, or 0."""
        if trick.wants_victim:
            self.victim = await self._start("sleep 100000")
            await self.machine.ok(f"until grep -qx sleep /proc/{self.victim}/comm; do sleep 0.05; done")
        if trick.is_program:
            self.program = await self._malware(trick)
            if trick is Trick.FILELESS_PROGRAM:  # it says `ready` before it is that program
                is_it = f"readlink /proc/{self.program}/exe | grep -q memfd"
                await self.machine.ok(f"until {is_it}; do [ -d /proc/{self.program} ] || exit 1; sleep 0.05; done")
            return self.victim or self.program
        await self.load()
        await self.machine.ok(f"echo on {trick} {self.victim} >/proc/rootkit")
        return self.victim

    async def undo(self, trick: Trick) -> None:
        """Switch the trick off, and end what was started for it. The module stays loaded."""
        if not trick.is_program:
            await self.machine.ok(f"echo off {trick} >/proc/rootkit")
        for pid in (self.program, self.victim):
            if pid:
                await self.machine.ok(f"kill {pid}; while [ -d /proc/{pid} ]; do sleep 0.05; done")
        self.program = self.victim = 0

    async def kexec_load(self, kernel: Path, initramfs: Path, command_line: str) -> None:
        """Make another kernel ready to run in the VM's place."""
        for name, path in (("kernel", kernel), ("initramfs", initramfs)):
            await self.machine.put(f"{_FOLDER}/{name}", path.read_bytes())
        words = f"kexec-load {_FOLDER}/kernel {_FOLDER}/initramfs '{command_line}'"
        await self.machine.ok(f"python3 {_FOLDER}/malware.py {words}")

    async def kexec(self) -> None:
        """Run the kernel that was made ready; returns when its control channel answers."""
        await self._start(f"python3 {_FOLDER}/malware.py kexec", ready=True)
        with suppress(ChannelError):  # the old kernel goes without a word
            await self.machine.sh("sleep 60")
        self.machine.channel.drop()
        await self.machine.channel.open(BOOT_SECONDS)
        self.loaded = False

    async def _malware(self, trick: Trick) -> int:
        argument = self.victim or ""
        return await self._start(f"python3 {_FOLDER}/malware.py {trick} {argument}", ready=True)

    async def _start(self, command: str, *, ready: bool = False) -> int:
        """Start a command that outlives its connection, as a child of init; wait until it says `ready`."""
        log = f"{_FOLDER}/log"
        script = f"""
        mkdir -p {_FOLDER}; : >{log}
        (setsid {command} >{log} 2>&1 </dev/null & echo $!)
        """
        pid = int(await self.machine.ok(script))
        if ready:
            wait = f"until grep -q ready {log}; do [ -d /proc/{pid} ] || {{ cat {log} >&2; exit 1; }}; sleep 0.1; done"
            await self.machine.ok(wait)
        return pid
