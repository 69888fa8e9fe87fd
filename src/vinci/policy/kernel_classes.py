# SPDX-License-Identifier: GPL-2.0-or-later
"""Security classes and permissions of Linux 6.1, as `security/selinux/include/classmap.h` names them.

A policy with `handleunknown deny` has to define every class that the kernel may ask about: one that is
left out is denied even to the FS-VM's own programs.
"""

from __future__ import annotations

from collections.abc import Mapping

_FILE_SOCK = "ioctl read write create getattr setattr lock relabelfrom relabelto append map"
_FILE = (
    f"{_FILE_SOCK} unlink link rename execute quotaon mounton audit_access open execmod "
    "watch watch_mount watch_sb watch_with_perm watch_reads"
)
_SOCK = f"{_FILE_SOCK} bind connect listen accept getopt setopt shutdown recvfrom sendto name_bind"
_IPC = "create destroy getattr setattr read write associate unix_read unix_write"
_CAP = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap"
)
_CAP2 = "mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"

_PLAIN_SOCKETS = [
    "socket",
    "netlink_socket",
    "packet_socket",
    "key_socket",
    "unix_dgram_socket",
    "netlink_nflog_socket",
    "netlink_selinux_socket",
    "netlink_iscsi_socket",
    "netlink_fib_lookup_socket",
    "netlink_connector_socket",
    "netlink_netfilter_socket",
    "netlink_dnrt_socket",
    "netlink_kobject_uevent_socket",
    "netlink_generic_socket",
    "netlink_scsitransport_socket",
    "netlink_rdma_socket",
    "netlink_crypto_socket",
    "appletalk_socket",
    "ax25_socket",
    "ipx_socket",
    "netrom_socket",
    "atmpvc_socket",
    "x25_socket",
    "rose_socket",
    "decnet_socket",
    "atmsvc_socket",
    "rds_socket",
    "irda_socket",
    "pppox_socket",
    "llc_socket",
    "can_socket",
    "tipc_socket",
    "bluetooth_socket",
    "iucv_socket",
    "rxrpc_socket",
    "isdn_socket",
    "phonet_socket",
    "ieee802154_socket",
    "caif_socket",
    "alg_socket",
    "nfc_socket",
    "vsock_socket",
    "kcm_socket",
    "qipcrtr_socket",
    "smc_socket",
    "xdp_socket",
    "mctp_socket",
]

FILE_CLASSES: Mapping[str, tuple[str, ...]] = {
    "file": (*_FILE.split(), "execute_no_trans", "entrypoint"),
    "dir": (*_FILE.split(), "add_name", "remove_name", "reparent", "search", "rmdir"),
    **{name: tuple(_FILE.split()) for name in ("lnk_file", "chr_file", "blk_file", "sock_file", "fifo_file")},
}
"""Classes of things that have a name in a file tree, with their permissions."""

OTHER_CLASSES: Mapping[str, tuple[str, ...]] = {
    name: tuple(permissions.split())
    for name, permissions in {
        "security": "compute_av compute_create compute_member check_context load_policy compute_relabel compute_user "
        "setenforce setbool setsecparam setcheckreqprot read_policy validate_trans",
        "process": "fork transition sigchld sigkill sigstop signull signal ptrace getsched setsched getsession getpgid "
        "setpgid getcap setcap share getattr setexec setfscreate noatsecure siginh setrlimit rlimitinh dyntransition "
        "setcurrent execmem execstack execheap setkeycreate setsockcreate getrlimit",
        "process2": "nnp_transition nosuid_transition",
        "system": "ipc_info syslog_read syslog_mod syslog_console module_request module_load",
        "capability": _CAP,
        "capability2": _CAP2,
        "cap_userns": _CAP,
        "cap2_userns": _CAP2,
        "filesystem": "mount remount unmount getattr relabelfrom relabelto associate quotamod quotaget watch",
        "fd": "use",
        "tcp_socket": f"{_SOCK} node_bind name_connect",
        "udp_socket": f"{_SOCK} node_bind",
        "rawip_socket": f"{_SOCK} node_bind",
        "dccp_socket": f"{_SOCK} node_bind name_connect",
        "sctp_socket": f"{_SOCK} node_bind name_connect association",
        "icmp_socket": f"{_SOCK} node_bind",
        "unix_stream_socket": f"{_SOCK} connectto",
        "tun_socket": f"{_SOCK} attach_queue",
        "netlink_route_socket": f"{_SOCK} nlmsg_read nlmsg_write",
        "netlink_tcpdiag_socket": f"{_SOCK} nlmsg_read nlmsg_write",
        "netlink_xfrm_socket": f"{_SOCK} nlmsg_read nlmsg_write",
        "netlink_audit_socket": f"{_SOCK} nlmsg_read nlmsg_write nlmsg_relay nlmsg_readpriv nlmsg_tty_audit",
        **dict.fromkeys(_PLAIN_SOCKETS, _SOCK),
        "node": "recvfrom sendto",
        "netif": "ingress egress",
        "sem": _IPC,
        "ipc": _IPC,
        "msgq": f"{_IPC} enqueue",
        "shm": f"{_IPC} lock",
        "msg": "send receive",
        "association": "sendto recvfrom setcontext polmatch",
        "packet": "send recv relabelto forward_in forward_out",
        "key": "view read write search link setattr create",
        "memprotect": "mmap_zero",
        "peer": "recv",
        "kernel_service": "use_as_override create_files_as",
        "binder": "impersonate call set_context_mgr transfer",
        "infiniband_pkey": "access",
        "infiniband_endport": "manage_subnet",
        "bpf": "map_create map_read map_write prog_load prog_run",
        "perf_event": "open cpu kernel tracepoint read write",
        "anon_inode": _FILE,
        "io_uring": "override_creds sqpoll cmd",
        "user_namespace": "create",
    }.items()
}
"""All other classes, with their permissions."""

INITIAL_SIDS = [
    "kernel",
    "security",
    "unlabeled",
    "fs",
    "file",
    "file_labels",
    "init",
    "any_socket",
    "port",
    "netif",
    "netmsg",
    "node",
    "igmp_packet",
    "icmp_socket",
    "tcp_socket",
    "sysctl_modprobe",
    "sysctl",
    "sysctl_fs",
    "sysctl_kernel",
    "sysctl_net",
    "sysctl_net_unix",
    "sysctl_vm",
    "sysctl_dev",
    "kmod",
    "policy",
    "scmp_packet",
    "devnull",
]
"""The kernel's 27 initial SIDs in the kernel's order (`initial_sid_to_string.h`; the kernel reads them by number)."""
