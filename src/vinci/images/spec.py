# SPDX-License-Identifier: GPL-2.0-or-later
"""What the images are made of: the one place that pins the kernel and lists packages, modules and guest files."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

KERNEL_RELEASE = "6.1.0-56-cloud-amd64"
"""The pinned Debian kernel. Its fs/nfsd decides whether the livepatch applies: change it only together with that."""

FORMAT = 1
"""Raised when images made by older code must not be used any more."""


class RootKind(StrEnum):
    """The root images: one for APP-VMs, one shared by FS-VMs and FW-VMs."""

    APP = "app"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class RootSpec:
    """One root image: Debian packages, kernel modules (dependencies are added) and directories of `vinci/guest`."""

    kind: RootKind
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    guest: tuple[str, ...]
    prune: tuple[str, ...]
    python: tuple[str, ...] = ()
    """Packages of Python in `vinci/guest`."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """All that is built: the kernel, what our own kernel module is built against (same version), the initramfs' modules
    and the two roots."""

    kernel_release: str
    kernel_build_packages: tuple[str, ...]
    boot_modules: tuple[str, ...]
    roots: tuple[RootSpec, ...]


EXCLUDED_PATHS = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/bash-completion/*",
    "/usr/share/bug/*",
    "/usr/lib/x86_64-linux-gnu/gconv/*",
    "/usr/lib/systemd/*",
)
"""Not even unpacked (dpkg's path-exclude)."""

_PRUNE = (
    "boot",
    "etc/apt",
    "etc/cron*",
    "etc/init.d",
    "etc/network",
    "etc/rc*.d",
    "etc/ssh/moduli",
    "etc/ssh/ssh_host_*",
    "etc/systemd",
    "usr/include",
    "usr/lib/init",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/libperl.so*",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/share/common-licenses",
    "usr/share/initramfs-tools",
    "var/cache/*",
    "var/lib/apt",
    "var/lib/dpkg/info",
    "var/lib/dpkg/*-old",
    "var/log/*",
)
"""Removed from every root: it is read-only, nothing is installed into it later, and Debian's init is not used."""

_PYTHON_EXTRAS = tuple(
    f"usr/lib/python3.11/{name}"
    for name in (
        *("asyncio", "concurrent", "ctypes", "curses", "dbm", "distutils", "email", "html", "http", "json"),
        *("lib-dynload/*", "lib2to3", "logging", "multiprocessing", "pydoc_data", "sqlite3", "test", "tkinter"),
        *("unittest", "urllib", "wsgiref", "xml", "xmlrpc", "zoneinfo"),
    )
)
"""What the gateways do not use of Python's library: they need the minimal one, and `python3-seccomp` asks for all."""

_SSH_CHANNEL = ("virtio_console", "qemu_fw_cfg")

SPEC = ImageSpec(
    kernel_release=KERNEL_RELEASE,
    kernel_build_packages=(
        f"linux-headers-{KERNEL_RELEASE}",
        f"linux-headers-{KERNEL_RELEASE.removesuffix('-cloud-amd64')}-common",
        "linux-kbuild-6.1",
        "linux-source-6.1",
    ),
    boot_modules=("virtio_pci", "virtio_blk", "virtio_rng", "erofs", "overlay", "virtio_net", *_SSH_CHANNEL),
    roots=(
        RootSpec(
            kind=RootKind.APP,
            packages=(
                "arping",
                "bash",
                "busybox-static",
                "ca-certificates",
                "curl",
                "file",
                "iproute2",
                "iputils-ping",
                "kmod",
                "less",
                "mount",
                "libpython3-stdlib",
                "nano",
                "ncurses-term",
                "netcat-openbsd",
                "netbase",
                "nfs-common",
                "openssh-server",
                "procps",
                "psmisc",
                "python3-minimal",
                "socat",
                "vim-tiny",
            ),
            modules=("nfsv4", "nfsv3", "nfs_layout_flexfiles", "8021q", "af_packet_diag", "inet_diag"),
            guest=("common", "app"),
            prune=_PRUNE,
        ),
        RootSpec(
            kind=RootKind.SERVICE,
            packages=(
                "attr",
                "busybox-static",
                "e2fsprogs",
                "iproute2",
                "kmod",
                "mount",
                "nfs-kernel-server",
                "nftables",
                "openssh-server",
                "python3-minimal",
                "python3-seccomp",
                "wireguard-tools",
            ),
            modules=(
                "nfsd",
                "nf_conntrack",
                "nf_log_syslog",
                "nf_tables",
                "nfnetlink_log",
                "nft_chain_nat",
                "nft_connlimit",
                "nft_ct",
                "nft_limit",
                "nft_log",
                "nft_redir",
                "nft_reject_inet",
                "nft_reject_ipv4",
                "tun",
                "wireguard",
            ),
            guest=("common", "fs", "fw"),
            python=("gateway",),
            prune=(*_PRUNE, *_PYTHON_EXTRAS),
        ),
    ),
)

APP_POLICY = "usr/lib/vinci/policy"
"""Where the APP-VM's image holds its SELinux policy."""

GUEST_FILES = {
    "channel.py": "usr/lib/vinci/channel.py",
    "inittab": "etc/inittab",
    "network": "usr/lib/vinci/network",
    "rc": "usr/lib/vinci/rc",
    "sshd_config": "etc/ssh/sshd_config",
    "stop": "usr/lib/vinci/stop",
}
"""Where the files of `vinci/guest/init` go in every root; files of the other directories go to /usr/lib/vinci."""
