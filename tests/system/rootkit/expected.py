# SPDX-License-Identifier: GPL-2.0-or-later
"""How a look from outside has to name each trick of the rootkit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rootkit.driver import Trick

from vinci.introspect.findings import Check, Finding, Severity


@dataclass(frozen=True, slots=True)
class Expected:
    """Which check names a trick, and what its finding says (a regular expression over `what | where`)."""

    check: Check
    words: str
    """`PID` in it stands for the process that the trick is about."""


EXPECTED = {
    Trick.FTRACE: Expected(Check.TEXT, "tcp4_seq_show"),
    Trick.KPROBE_ENTRY: Expected(Check.HOOKS, "kprobe.*tcp4_seq_show"),
    Trick.KPROBE_BODY: Expected(Check.TEXT, "tcp4_seq_show"),
    Trick.INLINE_HOOK: Expected(Check.TEXT, "tcp4_seq_show"),
    Trick.SYSCALL_TABLE: Expected(Check.RODATA, "sys_call_table"),
    Trick.MODULE_TEXT: Expected(Check.MODULES, "overlay"),
    Trick.KERNEL_PAGE: Expected(Check.EXECUTABLE_PAGES, "0x"),
    Trick.ADDRESS_SPACE: Expected(Check.ADDRESS_SPACES, "kernel half"),
    Trick.WRITE_PROTECT: Expected(Check.PLACE, "CR0"),
    Trick.PROC_OPS: Expected(Check.HOOKS, "proc_dir_entry.*rootkit"),
    Trick.FILE_OPS: Expected(Check.HOOKS, "inode.*rootkit"),
    Trick.NETFILTER: Expected(Check.HOOKS, "netfilter.*rootkit|rootkit.*netfilter"),
    Trick.KEY_NOTIFIER: Expected(Check.HOOKS, "keyboard_notifier_list"),
    Trick.MODULE_NOTIFIER: Expected(Check.HOOKS, "module_notify_list"),
    Trick.DEVICE_NOTIFIER: Expected(Check.HOOKS, "netdev_chain"),
    Trick.CORE_PATTERN: Expected(Check.HOOKS, "/tmp/rootkit-core.*core_pattern"),
    Trick.MODPROBE_PATH: Expected(Check.HOOKS, "/tmp/rootkit-modprobe.*modprobe_path"),
    Trick.HIDE_MODULE_LIST: Expected(Check.MODULES, "hidden.*rootkit"),
    Trick.HIDE_MODULE_SYSFS: Expected(Check.MODULES, "hidden.*rootkit"),
    Trick.HIDE_MODULE_TREE: Expected(Check.MODULES, "hidden.*rootkit"),
    Trick.HIDE_TASK: Expected(Check.PROCESSES, r"hid.*PID \(sleep\)"),
    Trick.HIDE_PID: Expected(Check.PROCESSES, r"hid.*PID \(sleep\)"),
    Trick.HIDE_SIBLINGS: Expected(Check.PROCESSES, r"hid.*PID \(sleep\)"),
    Trick.PACKET_HANDLER: Expected(Check.NETWORK, "rootkit"),
    Trick.SELINUX_ENFORCING: Expected(Check.SELINUX, "does not enforce"),
    Trick.SELINUX_HOOK: Expected(Check.SELINUX, "hook.*file_open"),
    Trick.PACKET_SOCKET: Expected(Check.NETWORK, r"packet socket.*PID \(python3\)"),
    Trick.PROMISCUOUS: Expected(Check.NETWORK, "eth0"),
    Trick.XDP: Expected(Check.NETWORK, "XDP.*eth0"),
    Trick.SELF_PATCHING: Expected(Check.USER_PAGES, r"PID \(python3\)"),
    Trick.ANONYMOUS_CODE: Expected(Check.USER_PAGES, r"PID \(python3\)"),
    Trick.FILELESS_PROGRAM: Expected(Check.PROCESSES, "PID .*memfd"),
    Trick.INJECTED_CODE: Expected(Check.USER_PAGES, r"PID \(sleep\)"),
}


def lines(found: Iterable[Finding]) -> str:
    """Findings, one a line."""
    return "\n".join(sorted(f"{finding.check}: {finding.what} | {finding.where}" for finding in found))


def named(found: Iterable[Finding], expected: Expected, pid: int) -> bool:
    """Whether a finding of tampering is the one expected."""
    words = re.compile(expected.words.replace("PID", str(pid)))
    return any(
        finding.check is expected.check
        and finding.severity is Severity.TAMPERED
        and words.search(f"{finding.what} | {finding.where}")
        for finding in found
    )
