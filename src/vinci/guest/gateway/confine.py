# SPDX-License-Identifier: GPL-2.0-or-later
"""What is taken from a gateway once it listens: every system call but those of its trade.

`fw-gateway` has taken capabilities, files and memory before. After this call no file can be opened, no program started
and no memory made executable. A forbidden call ends the process: the flow is closed until init has started another.
"""

from __future__ import annotations

import errno
from socket import AF_INET, SOCK_STREAM

import seccomp

_TRADE = (
    *("accept4", "connect", "getsockname", "getsockopt", "setsockopt", "recvfrom", "sendto", "shutdown", "close"),
    *("read", "write", "poll", "futex", "rseq", "set_robust_list", "gettid", "sched_yield"),
    *(
        "brk",
        "madvise",
        "munmap",
        "mremap",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sigaltstack",
        "restart_syscall",
    ),
    *("clock_gettime", "exit", "exit_group"),
)
_THREAD = 0x0001_0000 | 0x0000_0100  # CLONE_THREAD, CLONE_VM
_PROT_EXEC = 0x4
_SOCKET_TYPE = 0xF  # without SOCK_CLOEXEC and SOCK_NONBLOCK


def confine() -> None:
    """Confine this process for good. Sets no_new_privs too.

    Raises:
        RuntimeError: the kernel does not filter system calls.
        OSError: the same, on some kernels.
    """
    allow = seccomp.ALLOW
    rules = seccomp.SyscallFilter(defaction=seccomp.KILL_PROCESS)
    for call in _TRADE:
        rules.add_rule(allow, call)
    rules.add_rule(
        allow,
        "socket",
        seccomp.Arg(0, seccomp.EQ, AF_INET),
        seccomp.Arg(1, seccomp.MASKED_EQ, _SOCKET_TYPE, SOCK_STREAM),
    )
    rules.add_rule(allow, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _THREAD, _THREAD))
    # Its flags lie in memory, where a filter cannot look: the C library then uses clone.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for call in ("mmap", "mprotect"):
        rules.add_rule(allow, call, seccomp.Arg(2, seccomp.MASKED_EQ, _PROT_EXEC, 0))
    rules.load()
