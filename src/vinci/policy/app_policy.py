# SPDX-License-Identifier: GPL-2.0-or-later
"""The SELinux policy of every APP-VM as CIL text: what a user's programs can never do, whichever UID they get.

It is part of the image, not of the declaration: communities differ by what the FS-VMs and firewalls let them do. Two
domains:

* `vinci_kernel_t`: the kernel, init, and whatever root runs. Not confined, but once the policy is loaded nobody in the
  VM can switch enforcing off or load another policy by the kernel's interfaces; whoever writes kernel memory can, and
  is seen from outside.
* `vinci_user_t`: users' sessions (`app-session` enters it). No code on the stack, the heap or in any memory that can
  be written or has no file; no capability, so that a set-UID program makes no root shell; no kernel modules, BPF, raw
  or packet sockets, devices' raw memory or tracing; written is only what users may own.
"""

from __future__ import annotations

from collections.abc import Iterator

from vinci.policy.kernel_classes import FILE_CLASSES, INITIAL_SIDS, OTHER_CLASSES
from vinci.policy.se_base import (
    GENERIC_FILESYSTEMS,
    GUEST_T,
    KERNEL_T,
    SYSTEM_ROLE,
    SYSTEM_USER,
    UNLABELED_T,
    classes,
    context,
    levels_and_categories,
)

USER_T = "vinci_user_t"
USER_FILE_T, TEMPORARY_T, MEMORY_T = "vinci_user_file_t", "vinci_tmp_t", "vinci_memory_t"
PRIVATE_T, SHARE_T = "vinci_private_t", "vinci_share_t"
_DOMAINS, _FILES, _ALL = "vinci_domains", "vinci_files", "vinci_all"

_SWITCHES = "load_policy setenforce setbool setsecparam setcheckreqprot"
"""Of class `security`: what would change the policy in force."""
_WRITABLE_CODE = "execmem execstack execheap"
_NETWORK_FILESYSTEMS = ("nfs", "nfs4")

_LOOK = {
    "dir": "getattr search open read ioctl lock watch watch_reads",
    "file": "getattr open read ioctl lock map execute execute_no_trans watch watch_reads",
    "lnk_file": "getattr read",
    "chr_file": "getattr open read write append ioctl lock map watch",
    "fifo_file": "getattr open read write append ioctl lock",
    "sock_file": "getattr read write open append",
    "blk_file": "getattr",
}
"""What users do with things of the image and of root; discretionary rights restrict it further."""

_CHANGE = "create write append setattr link unlink rename"
_OWN_DIRECTORY = f"{_CHANGE} add_name remove_name reparent rmdir"

_STREAM = "create bind connect listen accept getattr setattr getopt setopt read write append shutdown ioctl lock map"
_OWN_SOCKETS = {
    "tcp_socket": f"{_STREAM} node_bind name_connect name_bind",
    "udp_socket": f"{_STREAM} node_bind name_bind",
    "icmp_socket": f"{_STREAM} node_bind name_bind",
    "unix_stream_socket": f"{_STREAM} connectto",
    "unix_dgram_socket": f"{_STREAM} sendto",
    "netlink_route_socket": f"{_STREAM} nlmsg_read",
    "netlink_tcpdiag_socket": f"{_STREAM} nlmsg_read",
}
_OWN_PROCESSES = (
    "fork sigchld sigkill sigstop signull signal getsched setsched getsession getpgid setpgid getcap setcap share "
    "getattr setrlimit getrlimit"
)


def app_policy() -> str:
    """The complete policy, ready for `secilc --mls true`; one level, no categories."""
    return "\n".join([*_frame(), *_system(), *_user(), *_labels(), *_never()]) + "\n"


def user_context() -> str:
    """Context of a user's session."""
    return f"{SYSTEM_USER}:{SYSTEM_ROLE}:{USER_T}:s0"


def _frame() -> Iterator[str]:
    yield from ("(handleunknown deny)", "(mls true)")
    yield from (f"(policycap {name})" for name in ("open_perms", "extended_socket_class", "nnp_nosuid_transition"))
    yield from classes()
    yield from levels_and_categories(1, 0)
    files = (GUEST_T, USER_FILE_T, TEMPORARY_T, MEMORY_T, PRIVATE_T, SHARE_T, UNLABELED_T)
    yield from (f"(typeattribute {name})" for name in (_DOMAINS, _FILES, _ALL))
    yield from (f"(type {name})" for name in (KERNEL_T, USER_T, *files))
    yield f"(typeattributeset {_DOMAINS} ({KERNEL_T} {USER_T}))"
    yield f"(typeattributeset {_FILES} ({' '.join(files)}))"
    yield f"(typeattributeset {_ALL} ({_DOMAINS} {_FILES}))"
    yield from (f"(role {SYSTEM_ROLE})", "(role object_r)", f"(user {SYSTEM_USER})")
    yield from (f"(roletype {SYSTEM_ROLE} {_DOMAINS})", f"(roletype object_r {_FILES})")
    yield from (f"(userrole {SYSTEM_USER} {role})" for role in (SYSTEM_ROLE, "object_r"))
    yield from (f"(userlevel {SYSTEM_USER} low)", f"(userrange {SYSTEM_USER} (low high))")
    for sid in INITIAL_SIDS:
        role, type_ = (SYSTEM_ROLE, KERNEL_T) if sid == "kernel" else ("object_r", GUEST_T)
        yield f"(sidcontext {sid} {context(SYSTEM_USER, role, UNLABELED_T if sid == 'unlabeled' else type_)})"


def _system() -> Iterator[str]:
    """Root, the kernel and init: everything but the switches of SELinux itself."""
    for name in (*FILE_CLASSES, *OTHER_CLASSES):
        rights = f"(not ({_SWITCHES}))" if name == "security" else "all"
        yield f"(allow {KERNEL_T} {_FILES} ({name} ({rights})))"
        yield f"(allow {KERNEL_T} {_DOMAINS} ({name} ({rights})))"
    yield f"(allow {_FILES} {_FILES} (filesystem (associate)))"


def _user() -> Iterator[str]:
    yield f"(allow {USER_T} {GUEST_T} (file (entrypoint)))"
    for class_, rights in _LOOK.items():
        yield f"(allow {USER_T} {GUEST_T} ({class_} ({rights})))"
        if class_ not in ("chr_file", "blk_file"):
            change = _OWN_DIRECTORY if class_ == "dir" else _CHANGE
            yield from (f"(allow {USER_T} {type_} ({class_} ({rights} {change})))" for type_ in (USER_FILE_T, SHARE_T))
    yield f"(allow {USER_T} {TEMPORARY_T} (dir ({_LOOK['dir']} write add_name remove_name)))"
    # A memory file (memfd, shared memory) is no place for code.
    yield f"(allow {USER_T} {MEMORY_T} (file (getattr open read write append setattr ioctl lock map)))"
    # `app-session` asks, as the user, whether the user may still come in.
    yield f"(allow {USER_T} {PRIVATE_T} (dir (getattr search)))"
    yield f"(allow {USER_T} {PRIVATE_T} (file (getattr)))"
    yield f"(allow {USER_T} {_FILES} (filesystem (getattr)))"
    # What the session inherits from sshd: pipes, sockets, descriptors; and /proc of its own kind.
    for class_ in ("fifo_file", "unix_stream_socket"):
        yield f"(allow {USER_T} {KERNEL_T} ({class_} (getattr read write append ioctl lock)))"
    yield f"(allow {USER_T} {_DOMAINS} (fd (use)))"
    yield f"(allow {USER_T} {KERNEL_T} (process (sigchld)))"
    yield f"(allow {USER_T} {USER_T} (process ({_OWN_PROCESSES})))"
    yield f"(allow {USER_T} {USER_T} (dir (getattr search open read)))"
    for class_ in ("file", "lnk_file", "fifo_file"):
        yield f"(allow {USER_T} {USER_T} ({class_} (getattr open read write append ioctl lock)))"
    for class_, rights in _OWN_SOCKETS.items():
        yield f"(allow {USER_T} {USER_T} ({class_} ({rights})))"
    yield f"(allow {USER_T} {GUEST_T} (tcp_socket (name_connect name_bind node_bind)))"
    yield from (f"(allow {USER_T} {GUEST_T} ({name} (name_bind node_bind)))" for name in ("udp_socket", "icmp_socket"))
    # The IPsec code asks of each packet, also without IPsec.
    yield f"(allow {USER_T} {UNLABELED_T} (association (sendto recvfrom)))"
    yield from (f"(allow {USER_T} {USER_T} ({name} (all)))" for name in ("sem", "msgq", "shm", "msg", "key"))
    yield f"(allow {USER_T} {_DOMAINS} (key (view read search link)))"
    yield f"(allow {USER_T} {USER_T} (anon_inode (create getattr read write ioctl map)))"


def _labels() -> Iterator[str]:
    guest = context(SYSTEM_USER, "object_r", GUEST_T)
    share = context(SYSTEM_USER, "object_r", SHARE_T)
    with_labels = ("overlay",)
    in_memory = ("devpts", "devtmpfs", "hugetlbfs", "mqueue", "ramfs", "rootfs", "tmpfs")
    yield from (f"(fsuse xattr {name} {guest})" for name in with_labels)
    yield from (f"(fsuse trans {name} {guest})" for name in in_memory)
    yield from (f"(fsuse task {name} {guest})" for name in ("pipefs", "sockfs"))
    for name in GENERIC_FILESYSTEMS:
        if name not in (*with_labels, *in_memory):
            yield f'(genfscon {name} "/" {share if name in _NETWORK_FILESYSTEMS else guest})'
    for class_ in ("dir", "file", "lnk_file", "sock_file", "fifo_file"):
        yield f"(typetransition {USER_T} {TEMPORARY_T} {class_} {USER_FILE_T})"
    yield f"(typetransition {USER_T} {GUEST_T} file {MEMORY_T})"
    # /run/vinci: keys and states of the VM's own.
    yield f'(typetransition {KERNEL_T} {GUEST_T} dir "vinci" {PRIVATE_T})'


def _never() -> Iterator[str]:
    """What the policy is for, as assertions that secilc checks against all of it."""
    yield f"(neverallow {_DOMAINS} {_ALL} (security ({_SWITCHES})))"
    no_right = f"{_WRITABLE_CODE} ptrace transition dyntransition setexec setcurrent"
    yield f"(neverallow {USER_T} {_ALL} (process ({no_right})))"
    yield from (f"(neverallow {USER_T} {_ALL} ({name} (execmod)))" for name in FILE_CLASSES)
    no_class = ("capability", "capability2", "cap_userns", "packet_socket", "rawip_socket", "system", "bpf")
    yield from (f"(neverallow {USER_T} {_ALL} ({name} (all)))" for name in no_class)
    yield f"(neverallow {USER_T} {GUEST_T} (file (write append create setattr unlink rename link)))"
