# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains on which the kernel calls whoever is registered: notifiers, netfilter, protocols, file formats.

What is registered lies in the image's own data or in a certified module's, and calls a certified function. (Functions
in the image's data are held to the image by `pointers`.)
"""

from __future__ import annotations

import struct
from collections import defaultdict

import numpy as np

from vinci.introspect.code import Code
from vinci.introspect.findings import Check
from vinci.introspect.guest import Guest
from vinci.introspect.hooks.tables import foreign_functions
from vinci.introspect.hooks.trusted import HookTables
from vinci.introspect.lists import Broken, chain, list_entries
from vinci.introspect.sampling import Sample
from vinci.introspect.structs import StructReader, struct_reader

_LIMIT = 1024
_NOTIFIERS = {
    "raw_notifier_head": (
        "netdev_chain",
        "pvclock_gtod_chain",
    ),
    "atomic_notifier_head": (
        "dcbevent_notif_chain",
        "die_chain",
        "fips_fail_notif_chain",
        "inet6addr_chain",
        "keyboard_notifier_list",
        "netevent_notif_chain",
        "panic_notifier_list",
        "power_supply_notifier",
        "restart_handler_list",
        "vt_notifier_list",
    ),
    "blocking_notifier_head": (
        "acpi_chain_head",
        "acpi_hed_notify_list",
        "acpi_reconfig_chain",
        "blocking_lsm_notifier_chain",
        "cpufreq_policy_notifier_list",
        "crypto_chain",
        "fb_notifier_list",
        "inet6addr_validator_chain",
        "inetaddr_chain",
        "inetaddr_validator_chain",
        "memory_chain",
        "module_notify_list",
        "netlink_chain",
        "oom_notify_list",
        "pm_chain_head",
        "reboot_notifier_list",
        "tracepoint_notify_list",
        "vendor_record_notify_list",
        "vmap_notify_list",
        "xenstore_chain",
    ),
    "srcu_notifier_head": (
        "cpufreq_transition_notifier_list",
        "lease_notifier_chain",
    ),
}
_REGISTERED_LISTS = (
    ("formats", "linux_binfmt", "lh"),
    ("input_handler_list", "input_handler", "node"),
    ("nf_sockopts", "nf_sockopt_ops", "list"),
    ("pernet_list", "pernet_operations", "list"),
    ("proto_list", "proto", "node"),
    ("syscore_ops_list", "syscore_ops", "node"),
)
"""Lists of objects that are part of the image or of a module: symbol of the list, struct, its link."""
_REGISTERED_TABLES = (
    ("inet_protos", 256, "net_protocol"),
    ("inet6_protos", 256, "inet6_protocol"),
    ("net_families", 46, "net_proto_family"),
    ("sock_diag_handlers", 46, "sock_diag_handler"),
    ("tty_ldiscs", 31, "tty_ldisc_ops"),
)
"""Arrays of pointers to such objects: symbol, length, struct."""
_FAMILIES = (("hooks_ipv4", 5), ("hooks_ipv6", 5), ("hooks_arp", 3), ("hooks_bridge", 5))
_MAX_NETFILTER_HOOKS = 1024
Call = tuple[int, str, int]
"""A function that is called, by whom, and the address of what says so."""


def look(guest: Guest, code: Code, trusted: HookTables, sample: Sample) -> None:
    """Follow all these chains. Raises Unreadable, Broken."""
    del trusted
    calls: list[Call] = []
    registered: list[tuple[str, str, int]] = []
    reader = struct_reader(guest.layout, "notifier_block", "notifier_call", "next")
    for head, names in _NOTIFIERS.items():
        offset = guest.layout.offset(head, "head")
        for name in names:
            for symbol in guest.profile.symbols.all(name):
                _notifiers(guest, reader, name, guest.u64(guest.slid(symbol) + offset), calls)
    for name, kind, link in _REGISTERED_LISTS:
        at = guest.layout.offset(kind, link)
        for entry in list_entries(guest, guest.symbol(name), _LIMIT):
            registered.append((name, kind, entry - at))
    for entry in chain(guest, guest.u64(guest.symbol("file_systems")), _next_file_system(guest), _LIMIT):
        registered.append(("file_systems", "file_system_type", entry))
    for name, length, kind in _REGISTERED_TABLES:
        entries = struct.unpack(f"<{length}Q", guest.read(guest.symbol(name), 8 * length))
        registered += [(name, kind, entry) for entry in entries if entry]
    _registered(code, registered, sample)
    _netfilter(guest, calls)
    check_calls(code, calls, sample, Check.HOOKS)


def _next_file_system(guest: Guest) -> int:
    return guest.layout.offset("file_system_type", "next")


def _registered(code: Code, objects: list[tuple[str, str, int]], sample: Sample) -> None:
    """Each object (by its list and its struct) is in certified data and names certified functions."""
    sample.examined += len(objects)
    kinds: dict[str, list[int]] = defaultdict(list)
    inside = code.are_data(np.array([address for _, _, address in objects], np.uint64))
    for (name, kind, address), own in zip(objects, inside.tolist(), strict=True):
        kinds[kind].append(address)
        if not own:
            what = f"registered in {name} is something that is in no certified data"
            sample.add(("registered", name), Check.HOOKS, what, code.describe(address))
    for kind, addresses in kinds.items():
        for address, member in foreign_functions(code.guest, code, kind, np.array(addresses, np.uint64)).items():
            what = f"registered is a {kind}: {member}"
            sample.add(("registered", kind), Check.HOOKS, what, code.describe(address))


def _notifiers(guest: Guest, reader: StructReader, name: str, first: int, calls: list[Call]) -> None:
    block = first
    for _ in range(_LIMIT):
        if not block:
            return
        function, following = reader.words(guest, block)
        calls.append((function, f"the notifier chain {name}", block))
        block = following
    raise Broken(f"the notifier chain {name} does not end")


def check_calls(code: Code, calls: list[Call], sample: Sample, check: Check) -> None:
    """Each function that is called has to be certified."""
    sample.examined += len(calls)
    good = code.are_functions(np.array([function for function, _, _ in calls], np.uint64))
    for (function, by, place), certified in zip(calls, good.tolist(), strict=True):
        if not certified:
            what = f"{by} calls {code.describe(function)}, which is no certified function"
            sample.add(("called", by), check, what, code.describe(place))


def _netfilter(guest: Guest, calls: list[Call]) -> None:
    net = guest.symbol("init_net")
    for family, count in _FAMILIES:
        at = net + guest.layout.offset("net", f"nf.{family}")
        for number, entries in enumerate(struct.unpack(f"<{count}Q", guest.read(at, 8 * count))):
            if entries:
                calls += netfilter_calls(guest, f"netfilter's {family}[{number}]", entries)


def netfilter_calls(guest: Guest, name: str, entries: int) -> list[Call]:
    """The functions of one netfilter hook (`struct nf_hook_entries`). Raises Unreadable, Broken."""
    count = guest.u32(entries) & 0xFFFF
    if count > _MAX_NETFILTER_HOOKS:
        raise Broken(f"{name} has {count} entries")
    size = guest.layout.size("nf_hook_entry")
    raw = guest.read(entries + guest.layout.offset("nf_hook_entries", "hooks"), size * count)
    return [(int.from_bytes(raw[at : at + 8], "little"), name, entries + at) for at in range(0, len(raw), size)]
