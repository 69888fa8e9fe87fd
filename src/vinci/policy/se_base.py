# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of an FS-VM's SELinux policy that does not depend on the declaration: classes, levels, the VM's own types.

Four types are the VM's own; none is ever the subject of a user's request:

* `vinci_kernel_t`: the kernel and every program of the VM. It has **no** right on a share, so that a file service
  without its module (or a request that reached no subject) is denied instead of served.
* `vinci_manage_t`: makes and labels the trees of shares (`fs-shares` enters it for that only). It cannot read a file.
* `vinci_decode_t`: the subject in force while the server turns a file handle into a path: it may walk directories.
* `vinci_compare_t`: reads the end of a file to find out whether an append repeats what is stored already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vinci.policy.kernel_classes import FILE_CLASSES, INITIAL_SIDS, OTHER_CLASSES

SYSTEM_USER = "vinci_u"
SYSTEM_ROLE = "vinci_system_r"
# No declared name holds an underscore, so these cannot collide with a type made from one.
KERNEL_T, MANAGE_T, DECODE_T, COMPARE_T = "vinci_kernel_t", "vinci_manage_t", "vinci_decode_t", "vinci_compare_t"
GUEST_T, ROOT_T, BLANK_T, UNLABELED_T = "vinci_guest_t", "vinci_root_t", "vinci_blank_t", "vinci_unlabeled_t"
DISK_T, STATE_T = "vinci_disk_t", "vinci_state_t"
HOSTS, SUBJECTS, MOUNTS, SHARES, EXEMPT = (
    "vinci_all_hosts",
    "vinci_all_subjects",
    "vinci_all_mounts",
    "vinci_all_shares",
    "vinci_label_exempt",
)

GENERIC_FILESYSTEMS = [
    "anon_inodefs",
    "autofs",
    "bdev",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "devtmpfs",
    "dax",
    "efivarfs",
    "erofs",
    "fuse",
    "fusectl",
    "hugetlbfs",
    "inotifyfs",
    "iso9660",
    "mqueue",
    "nfs",
    "nfs4",
    "nfsd",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "vfat",
    "virtiofs",
]


def base_policy(levels: int, categories: int, trusted: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the fixed statements of the policy.

    Args:
        levels: number of sensitivity levels, at least 1.
        categories: number of categories (0 is possible).
        trusted: pairs (subjects' attribute, share's type) for which the declaration lifts the label's rules.
    """
    yield from ("(handleunknown deny)", "(mls true)", "(policycap open_perms)", "(policycap extended_socket_class)")
    yield from classes()
    yield from levels_and_categories(levels, categories)
    yield from _types()
    yield from _own_rights()
    yield from _filesystems()
    yield from _label_rules(trusted)


def context(user: str, role: str, type_: str, level: str = "low", high: str = "low") -> str:
    """A context in CIL's spelling, for a named level."""
    return f"({user} {role} {type_} (({level}) ({high})))".replace("((low) (low))", "(low low)")


def classes() -> Iterator[str]:
    """The kernel's security classes and initial SIDs, in its order."""
    known = {**FILE_CLASSES, **OTHER_CLASSES}
    for name, permissions in known.items():
        yield f"(class {name} ({' '.join(permissions)}))"
    yield f"(classorder ({' '.join(known)}))"
    yield from (f"(sid {name})" for name in INITIAL_SIDS)
    yield f"(sidorder ({' '.join(INITIAL_SIDS)}))"


def levels_and_categories(levels: int, categories: int) -> Iterator[str]:
    """Sensitivity levels s0 and up, each with all categories; the lowest is named `low`, the highest `high`."""
    # A policy without any category is not accepted, so c0 always exists.
    count = max(categories, 1)
    span = "c0" if count == 1 else f"range c0 c{count - 1}"
    yield from (f"(sensitivity s{number})" for number in range(levels))
    yield f"(sensitivityorder ({' '.join(f's{number}' for number in range(levels))}))"
    yield from (f"(category c{number})" for number in range(count))
    yield f"(categoryorder ({' '.join(f'c{number}' for number in range(count))}))"
    yield from (f"(sensitivitycategory s{number} ({span}))" for number in range(levels))
    yield "(level low (s0))"
    yield f"(level high (s{levels - 1} ({span})))"


def _types() -> Iterator[str]:
    yield from (f"(typeattribute {name})" for name in (HOSTS, SUBJECTS, MOUNTS, SHARES, EXEMPT))
    for name in (KERNEL_T, MANAGE_T, DECODE_T, COMPARE_T, GUEST_T, ROOT_T, BLANK_T, UNLABELED_T, DISK_T, STATE_T):
        yield f"(type {name})"
    yield f"(role {SYSTEM_ROLE})"
    yield "(role object_r)"
    yield from (f"(roletype {SYSTEM_ROLE} {name})" for name in (KERNEL_T, MANAGE_T, DECODE_T, COMPARE_T))
    yield from (
        f"(roletype object_r {name})" for name in (GUEST_T, ROOT_T, BLANK_T, UNLABELED_T, DISK_T, STATE_T, SHARES)
    )
    yield f"(user {SYSTEM_USER})"
    yield from (f"(userrole {SYSTEM_USER} {role})" for role in (SYSTEM_ROLE, "object_r"))
    yield f"(userlevel {SYSTEM_USER} low)"
    yield f"(userrange {SYSTEM_USER} (low high))"
    yield f"(typeattributeset {HOSTS} ({KERNEL_T} {MANAGE_T}))"
    yield f"(typeattributeset {EXEMPT} ({MANAGE_T} {DECODE_T} {COMPARE_T}))"
    initial = {"file": BLANK_T, "fs": BLANK_T, "file_labels": BLANK_T, "unlabeled": UNLABELED_T}
    for sid in INITIAL_SIDS:
        if sid == "kernel":
            yield f"(sidcontext {sid} {context(SYSTEM_USER, SYSTEM_ROLE, KERNEL_T)})"
        else:
            yield f"(sidcontext {sid} {context(SYSTEM_USER, 'object_r', initial.get(sid, GUEST_T))})"


def _own_rights() -> Iterator[str]:
    """What the VM's own programs may do: all with their own kind, nothing with shares but what is listed."""
    for name in (*FILE_CLASSES, *OTHER_CLASSES):
        yield f"(allow {HOSTS} {GUEST_T} ({name} (all)))"
        yield f"(allow {HOSTS} {HOSTS} ({name} (all)))"
    # The server's own records lie on the data disk, beside the shares and out of every subject's reach.
    yield from (f"(allow {HOSTS} {STATE_T} ({name} (all)))" for name in FILE_CLASSES)
    for name in OTHER_CLASSES:
        yield f"(allow {HOSTS} {UNLABELED_T} ({name} (all)))"
    for name in (ROOT_T, BLANK_T):
        # `file_t`-like objects appear on the data disk only: made by mkfs, or by hand.
        yield f"(allow {HOSTS} {name} (dir (getattr search mounton)))"
    yield f"(allow {HOSTS} {DISK_T} (filesystem (all)))"
    yield f"(allow {HOSTS} {BLANK_T} (filesystem (all)))"
    yield f"(allow {KERNEL_T} {SUBJECTS} (kernel_service (use_as_override)))"
    yield f"(allow {KERNEL_T} {MOUNTS} (kernel_service (use_as_override)))"
    for name in (DECODE_T, COMPARE_T):
        yield f"(allow {KERNEL_T} {name} (kernel_service (use_as_override)))"
        yield f"(allow {name} {HOSTS} (fd (use)))"
    # The mount daemon tells clients the handle of a share's root: it looks at that directory and no further.
    yield f"(allow {KERNEL_T} {SHARES} (dir (getattr)))"
    # An unlabelled tree is one whose share is no longer declared, or has just been declared again.
    relabelled = "getattr setattr relabelfrom relabelto"
    for name in (ROOT_T, BLANK_T, UNLABELED_T, SHARES):
        yield f"(allow {MANAGE_T} {name} (dir ({relabelled} search read open write add_name create)))"
        yield from (
            f"(allow {MANAGE_T} {name} ({class_} ({relabelled})))" for class_ in FILE_CLASSES if class_ != "dir"
        )
    # the file that `vinci verify` measures on: made empty, by appending nothing
    yield f"(allow {MANAGE_T} {SHARES} (file (create open append)))"
    yield from (f"(allow {name} {DISK_T} (filesystem (associate)))" for name in (ROOT_T, STATE_T, SHARES))
    yield f"(allow {GUEST_T} {GUEST_T} (filesystem (associate)))"
    yield f"(allow {DECODE_T} {DECODE_T} (capability (dac_read_search)))"
    for name in (ROOT_T, SHARES):
        yield f"(allow {DECODE_T} {name} (dir (getattr search read open)))"
    yield f"(allow {COMPARE_T} {SHARES} (file (getattr open read)))"
    yield f"(allow {SUBJECTS} {SUBJECTS} (fd (use)))"
    yield f"(allow {SUBJECTS} {HOSTS} (fd (use)))"
    yield f"(allow {SUBJECTS} {ROOT_T} (dir (getattr search)))"
    yield f"(allow {MOUNTS} {ROOT_T} (dir (getattr search)))"
    # NFSv4 tells of a mounted root what it is mounted on.
    yield f"(allow {SUBJECTS} {GUEST_T} (dir (getattr)))"
    yield f"(allow {MOUNTS} {GUEST_T} (dir (getattr)))"
    yield f"(allow {SUBJECTS} {DISK_T} (filesystem (getattr)))"
    yield f"(allow {MOUNTS} {DISK_T} (filesystem (getattr)))"
    # A question ("might I write?") is no refused access: the server asks before it chooses append or write.
    yield f"(dontaudit {SUBJECTS} {SHARES} (file (audit_access)))"
    for name in FILE_CLASSES:
        rights = "getattr" if name == "dir" else ""
        forbidden = f"(not ({rights}))" if rights else "all"
        yield f"(neverallow {KERNEL_T} {SHARES} ({name} ({forbidden})))"


def _filesystems() -> Iterator[str]:
    guest = context(SYSTEM_USER, "object_r", GUEST_T)
    yield from (f'(genfscon {name} "/" {guest})' for name in GENERIC_FILESYSTEMS)
    yield from (f"(fsuse task {name} {guest})" for name in ("pipefs", "sockfs"))
    yield f"(fsuse xattr ext4 {context(SYSTEM_USER, 'object_r', DISK_T)})"
    # What is made in a share gets the share's own context, whoever makes it: a file outlives the user who made it.
    classes = " ".join(FILE_CLASSES)
    yield f"(defaultuser ({classes}) target)"
    yield f"(defaultrange ({classes}) target low)"


def _label_rules(trusted: Iterable[tuple[str, str]]) -> Iterator[str]:
    """No read up, no write down, as constraints: no `allow` can override them (Bell and LaPadula 1973).

    `look` (a name's existence, size and times) is allowed in both directions of comparable labels, because an
    appender has to find the file and its end; write means *change*, so it needs the very same label.
    """
    lifted = f"(eq t1 {EXEMPT})"
    # Nested on the left: the kernel evaluates constraints on a stack that is five deep.
    for subjects, share in trusted:
        lifted = f"(or {lifted} (and (eq t1 {subjects}) (eq t2 {share})))"
    read, write, upward = "(dom l1 l2)", "(eq l1 l2)", "(domby l1 l2)"
    look = f"(or {read} {upward})"
    rules = (
        (read, "read execute execute_no_trans ioctl lock map watch watch_reads", ("file",)),
        (read, "read ioctl lock map watch watch_reads", ("dir", "lnk_file", "fifo_file", "sock_file")),
        (look, "getattr open", ("file", "dir", "lnk_file", "fifo_file", "sock_file")),
        (look, "search", ("dir",)),
        (upward, "create append", ("file", "dir", "lnk_file", "fifo_file", "sock_file")),
        (upward, "write add_name", ("dir",)),
        (write, "write", ("file", "lnk_file", "fifo_file", "sock_file")),
        (
            write,
            "setattr unlink link rename relabelfrom relabelto",
            ("file", "dir", "lnk_file", "fifo_file", "sock_file"),
        ),
        (write, "remove_name reparent rmdir", ("dir",)),
        (write, "read write create getattr setattr unlink link rename open append", ("chr_file", "blk_file")),
    )
    for rule, permissions, classes in rules:
        for name in classes:
            yield f"(mlsconstrain ({name} ({permissions})) (or {rule} {lifted}))"
