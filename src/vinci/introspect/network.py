# SPDX-License-Identifier: GPL-2.0-or-later
"""Who could read the network's traffic besides its receivers: packet sockets, handlers, promiscuous cards, programs."""

from __future__ import annotations

import struct
from collections.abc import Container

import numpy as np

from vinci.introspect.code import Code
from vinci.introspect.findings import Check, CheckResult, Severity
from vinci.introspect.guest import Guest, printable
from vinci.introspect.hooks.chains import check_calls, netfilter_calls
from vinci.introspect.hooks.tables import foreign_functions
from vinci.introspect.lists import chain, list_entries, xarray_entries
from vinci.introspect.memory import Implausible
from vinci.introspect.open_files import open_sockets
from vinci.introspect.sampling import Sample, check_by_samples
from vinci.introspect.structs import struct_reader
from vinci.introspect.tasks import TaskReader

_LIMIT = 4096
_HASH_LISTS = 16
"""PTYPE_HASH_SIZE."""
_IFF_PROMISC, _IFF_ALLMULTI = 0x100, 0x200
_SOCK_RAW, _SOCK_PACKET = 3, 10
_XDP_MODES = 3
_OPERATIONS = {
    "netdev_ops": "net_device_ops",
    "ethtool_ops": "ethtool_ops",
    "header_ops": "header_ops",
    "rtnl_link_ops": "rtnl_link_ops",
}
"""A card's pointers to tables of functions, and the struct that each leads to."""
_PACKET_RECEIVERS = ("packet_rcv", "tpacket_rcv")
"""Where the kernel hands packets to a packet socket."""
_PROGRAM_TABLES = {"prog_idr": "program", "link_idr": "link", "map_idr": "map"}


def check_network(guest: Guest, ethertypes: Container[int] = ()) -> CheckResult:
    """Find sniffers: in sockets, in the kernel's lists of packet handlers, on the cards, as BPF programs.

    Args:
        ethertypes: those that are declared for the VM. A packet socket that gets the packets of one of them, and no
            others, is a note: programs exchange them by such sockets.
    """
    return check_by_samples(Check.NETWORK, guest, lambda: _sample(guest, Code.of(guest), ethertypes))


def _sample(guest: Guest, code: Code, ethertypes: Container[int]) -> Sample:
    sample = Sample()
    declared = _packet_sockets(guest, sample, ethertypes)
    handlers = _Handlers(guest, code, sample, declared)
    handlers.look(guest.symbol("ptype_all"), "all packets")
    for number in range(_HASH_LISTS):
        handlers.look(guest.symbol("ptype_base") + 16 * number, "packets of one protocol", by_type=True)
    handlers.look(guest.symbol("offload_base"), "packets before all others", "packet_offload")
    _devices(guest, code, sample, handlers)
    _programs(guest, sample)
    _open_sockets(guest, sample, declared)
    return sample


def _net(guest: Guest, path: str) -> int:
    """The address of a member of the one network namespace that guests have."""
    return guest.symbol("init_net") + guest.layout.offset("net", path)


def _packet_sockets(guest: Guest, sample: Sample, ethertypes: Container[int]) -> set[int]:
    """Look at all packet sockets; those (`struct sock`) that are bound to a declared ethertype."""
    node = guest.layout.offset("sock", "__sk_common.skc_node")
    interface = guest.layout.offset("packet_sock", "ifindex")
    type_at = guest.layout.offset("packet_sock", "prot_hook") + guest.layout.offset("packet_type", "type")
    declared: set[int] = set()
    for entry in chain(guest, guest.u64(_net(guest, "packet.sklist.first")), 0, _LIMIT):
        socket = entry - node
        sample.examined += 1
        where = f"interface {guest.u32(socket + interface)}"
        number = int.from_bytes(guest.read(socket + type_at, 2), "big")
        if number in ethertypes:
            declared.add(socket)
            what = f"a packet socket for the declared ethertype {number:#06x}"
            sample.add(("packet socket", number), Check.NETWORK, what, where, Severity.NOTE)
        else:
            sample.add("packet socket", Check.NETWORK, "a packet socket: a program reads all packets", where)
    spaces = list(list_entries(guest, guest.symbol("net_namespace_list"), _LIMIT))
    sample.examined += len(spaces)
    if len(spaces) > 1:
        what = f"{len(spaces) - 1} network namespaces besides the VM's own, which are not looked into"
        sample.add("namespaces", Check.NETWORK, what, "net_namespace_list")
    return declared


class _Handlers:
    """Follows lists of packet handlers (`struct packet_type`); those of `declared` packet sockets are expected."""

    def __init__(self, guest: Guest, code: Code, sample: Sample, declared: set[int]) -> None:
        self.guest, self.code, self.sample = guest, code, sample
        hook = guest.layout.offset("packet_sock", "prot_hook")
        self._expected = {socket + hook for socket in declared}
        self._receivers = {guest.symbol(name) for name in _PACKET_RECEIVERS}

    def look(self, head: int, of: str, kind: str = "packet_type", *, by_type: bool = False) -> None:
        """Check each handler on a list: certified data that names a certified function. Raises Unreadable, Broken.

        `by_type`: of this list the kernel gives a handler packets of its own type only (`deliver_ptype_list_skb`).
        """
        link = self.guest.layout.offset(kind, "list")
        function_at = self.guest.layout.offset(kind, "func" if kind == "packet_type" else "callbacks.gro_receive")
        for entry in list_entries(self.guest, head, _LIMIT):
            handler = entry - link
            function = self.guest.u64(handler + function_at)
            self.sample.examined += 1
            if by_type and handler in self._expected and function in self._receivers:
                continue
            if not self.code.is_data(handler) or not self.code.is_function(function):
                what = f"{of} go to {self.code.describe(function)}, which is no handler of the image"
                where = f"handler at {self.code.describe(handler)}"
                self.sample.add(("handler", of), Check.NETWORK, what, where)


def _devices(guest: Guest, code: Code, sample: Sample, handlers: _Handlers) -> None:
    layout = guest.layout
    link = layout.offset("net_device", "dev_list")
    reader = struct_reader(layout, "net_device", "name", "flags", "promiscuity", "allmulti", "rx_handler", "xdp_prog")
    for entry in list_entries(guest, _net(guest, "dev_base_head"), _LIMIT):
        device = entry - link
        raw, flags, promiscuous, all_multicast, receiver, program = reader.read(guest, device)
        assert isinstance(raw, bytes)
        assert isinstance(flags, int)
        name = printable(raw.partition(b"\0")[0])
        sample.examined += 1
        if flags & _IFF_PROMISC or promiscuous:
            sample.add(
                ("promiscuous", device), Check.NETWORK, "a network card takes packets that are not its own", name
            )
        if flags & _IFF_ALLMULTI or all_multicast:
            what = "a network card takes all multicast packets"
            sample.add(("all multicast", device), Check.NETWORK, what, name, Severity.NOTE)
        if receiver:
            what = f"a network card's packets go to {code.describe(int(receiver))} first"
            sample.add(("receiver", device), Check.NETWORK, what, name)
        states = layout.offset("net_device", "xdp_state")
        attached = struct.unpack(f"<{2 * _XDP_MODES}Q", guest.read(device + states, 16 * _XDP_MODES))
        if program or any(attached):
            sample.add(("xdp", device), Check.NETWORK, "a program is attached to a network card (XDP)", name)
        for queue in ("miniq_ingress", "miniq_egress"):
            if guest.u64(device + layout.offset("net_device", queue)):
                what = "a filter is attached to a network card (tc)"
                sample.add(("tc", device, queue), Check.NETWORK, what, name)
        handlers.look(device + layout.offset("net_device", "ptype_all"), f"all packets of {name}")
        handlers.look(device + layout.offset("net_device", "ptype_specific"), f"packets of {name}", by_type=True)
        _operations(guest, code, sample, device, name)


def _operations(guest: Guest, code: Code, sample: Sample, device: int, name: str) -> None:
    layout = guest.layout
    for table, kind in _OPERATIONS.items():
        address = guest.u64(device + layout.offset("net_device", table))
        if address and not code.is_data(address):
            what = f"operations of a network card ({table}) lie at {code.describe(address)}, in no certified data"
            sample.add(("operations", device, table), Check.NETWORK, what, name)
        elif address:
            for member in foreign_functions(guest, code, kind, np.array([address], np.uint64)).values():
                what = f"operations of a network card ({table}): {member}"
                sample.add(("operations", device, table), Check.NETWORK, what, name)
    for hook in ("nf_hooks_ingress", "nf_hooks_egress"):
        entries = guest.u64(device + layout.offset("net_device", hook))
        if entries:
            check_calls(code, netfilter_calls(guest, f"{name}'s {hook}", entries), sample, Check.NETWORK)


def _programs(guest: Guest, sample: Sample) -> None:
    """BPF programs, links and maps: a guest has none."""
    idr = guest.layout.offset("idr", "idr_rt.xa_head")
    name_at = guest.layout.offset("bpf_prog_aux", "name")
    aux = guest.layout.offset("bpf_prog", "aux")
    for table, kind in _PROGRAM_TABLES.items():
        entries = xarray_entries(guest, guest.u64(guest.symbol(table) + idr), _LIMIT)
        sample.examined += 1
        for number, address in entries:
            where = f"{kind} {number}"
            if kind == "program":
                where += f" ({guest.cstring(guest.u64(address + aux) + name_at, 16)})"
            sample.add(("bpf", kind), Check.NETWORK, f"a BPF {kind}", where)


def _open_sockets(guest: Guest, sample: Sample, declared: set[int]) -> None:
    """Packet and raw sockets among the processes' open files: this names who has them."""
    reader = TaskReader(guest)
    socket = struct_reader(guest.layout, "socket", "type", "ops", "sk")
    packet, legacy, raw = (guest.symbol(name) for name in ("packet_ops", "packet_ops_spkt", "inet_sockraw_ops"))

    def broken(task: int, files: int, problem: Implausible) -> None:
        what = f"a process's table of files cannot be followed: {problem}"
        sample.add(("files", task, files), Check.NETWORK, what, f"{task:#x}")

    for one in open_sockets(guest, broken):
        sample.examined += 1
        try:
            type_, ops, inner = socket.words(guest, one.socket)
            where = f"{reader.read(one.task).where} file {one.number}"
        except Implausible:
            continue  # the process ends just now; the processes' check says when it cannot be read for long
        if ops == packet and inner in declared:
            what = "a packet socket for a declared ethertype, held open"
            sample.add(("socket", one.file), Check.NETWORK, what, where, Severity.NOTE)
        elif ops in (packet, legacy) or type_ & 0xFFFF == _SOCK_PACKET:
            sample.add(("socket", one.file), Check.NETWORK, "a packet socket, held open", where)
        elif type_ & 0xFFFF == _SOCK_RAW and ops == raw:
            what = "a raw socket: it reads what comes for this VM"
            sample.add(("socket", one.file), Check.NETWORK, what, where, Severity.NOTE)
