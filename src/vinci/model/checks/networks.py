# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of addresses, machines and nodes: enough of everything, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

from vinci.model.checks.facts import Facts, Finding, error, warning
from vinci.model.infrastructure import AppVmMode
from vinci.model.machines import APP_OFFSET, MAX_FS_LEGS, app_vm_count, app_vm_names, firewall_name
from vinci.model.problems import ModelPath

POOL_PREFIX = 24
"""Communities without a `network` get networks of this length from the pool."""
MAX_PREFIX = 28
"""The smallest network: 16 addresses, 5 of them for APP-VMs."""
_IMPOSSIBLE = {
    IPv4Network("0.0.0.0/8"): "addresses of no network",
    IPv4Network("127.0.0.0/8"): "loopback addresses",
    IPv4Network("169.254.0.0/16"): "link-local addresses",
    IPv4Network("224.0.0.0/3"): "multicast or reserved addresses",
}


def check_networks(facts: Facts) -> Iterator[Finding]:
    """Networks that are apart from each other and big enough for their VMs."""
    declared: list[tuple[IPv4Network, ModelPath, str]] = [
        (community.network, ("communities", name, "network"), name)
        for name, community in facts.infrastructure.communities.items()
        if community.network is not None
    ]
    if facts.complete("transit"):
        declared.append((facts.infrastructure.transit, ("transit",), "transit"))
    for network, path, _ in declared:
        yield from _usable(network, path)
    yield from _usable(facts.infrastructure.address_pool, ("address_pool",))
    yield from _overlaps(declared)
    yield from _capacities(facts)
    if facts.complete("transit") and facts.complete("address_pool"):
        yield from _pool(facts, [network for network, _, _ in declared])


def _usable(network: IPv4Network, path: ModelPath) -> Iterator[Finding]:
    for impossible, what in _IMPOSSIBLE.items():
        if network.overlaps(impossible):
            yield error(path, f"{network} holds {what} ({impossible})", "use private addresses: 10.0.0.0/8")
            return
    if not network.is_private:
        yield warning(path, f"{network} are public addresses", "use private addresses: 10.0.0.0/8")


def _overlaps(declared: list[tuple[IPv4Network, ModelPath, str]]) -> Iterator[Finding]:
    """Each network that overlaps an earlier one (by address): networks nest or are apart, never half and half."""
    enclosing: tuple[IPv4Network, ModelPath, str] | None = None
    for entry in sorted(declared, key=lambda item: (int(item[0].network_address), item[0].prefixlen)):
        network, path, name = entry
        if enclosing is not None and network.subnet_of(enclosing[0]):
            other = f"{enclosing[2]}'s network {enclosing[0]}"
            yield error(path, f"{name}'s network {network} overlaps {other}", "give each a network of its own")
        else:
            enclosing = entry


def _capacities(facts: Facts) -> Iterator[Finding]:
    for name, community in facts.infrastructure.communities.items():
        path: ModelPath = ("communities", name)
        prefix = POOL_PREFIX
        if community.network is not None:
            prefix, path = community.network.prefixlen, (*path, "network")
        count = app_vm_count(community, facts.members[name])
        # The network's and the broadcast address, and those before APP_OFFSET, are no APP-VM's.
        room = max(0, (1 << (32 - prefix)) - 1 - APP_OFFSET)
        if prefix > MAX_PREFIX:
            yield error(path, f"{name}'s network is a /{prefix}", f"a /{MAX_PREFIX} is the smallest that is of use")
        elif count > room:
            needed = 32 - (count + APP_OFFSET).bit_length()
            yield error(
                path,
                f"{name} has {count} APP-VMs, but its /{prefix} network has addresses for {room}",
                f"a /{needed} network is big enough",
            )
        mode = community.app_vms.mode
        if mode is AppVmMode.PER_USER and "count" in community.app_vms.model_fields_set:
            where = ("communities", name, "app_vms", "count")
            yield warning(where, "`count` means nothing in mode per-user: each member has one APP-VM", "remove it")


def _pool(facts: Facts, taken: list[IPv4Network]) -> Iterator[Finding]:
    pool, transit = facts.infrastructure.address_pool, facts.infrastructure.transit
    wanting = [name for name, community in facts.infrastructure.communities.items() if community.network is None]
    prefix = max(POOL_PREFIX, pool.prefixlen)
    if wanting and prefix > POOL_PREFIX:
        yield error(
            ("address_pool",), f"{pool} is smaller than one /{POOL_PREFIX}", f"use a /{POOL_PREFIX - 1} or larger"
        )
        return
    used, next_block = 0, 0
    for network in sorted(network for network in taken if network.overlaps(pool)):
        first = max(int(network.network_address), int(pool.network_address)) >> (32 - prefix)
        last = min(int(network.broadcast_address), int(pool.broadcast_address)) >> (32 - prefix)
        used += max(0, last + 1 - max(first, next_block))
        next_block = max(next_block, last + 1)
    free = (1 << (prefix - pool.prefixlen)) - used
    if len(wanting) > free:
        what = f"{len(wanting)} communities want a network of {pool}, which has {free} free"
        yield error(("address_pool",), what, "use a larger pool, or give communities a `network`")
    communities = len(facts.infrastructure.communities)
    if communities > transit.num_addresses - 2:
        what = f"transit network {transit} has no address for each of {communities} FW-VMs"
        yield error(("transit",), what, f"use a /{32 - (communities + 1).bit_length()} or larger")


def check_machines(facts: Facts) -> Iterator[Finding]:
    """VM names that are one machine's, FS-VMs that fit, nodes that exist."""
    yield from _names(facts)
    servers = list(facts.infrastructure.file_servers)
    for name in servers[MAX_FS_LEGS:]:
        what = f"there are more than {MAX_FS_LEGS} file servers"
        yield error(("file_servers", name), what, f"a community's network has {MAX_FS_LEGS} addresses for them")
    for name, server in facts.infrastructure.file_servers.items():
        if server.node is not None:
            yield from facts.unknown("nodes", server.node, ("file_servers", name, "node"), "node")
    yield from _memory(facts)


def _names(facts: Facts) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for server in facts.infrastructure.file_servers:
        owners[server] = f"file server {server}"
    for name, community in facts.infrastructure.communities.items():
        path: ModelPath = ("communities", name)
        vms = [(firewall_name(name), f"{name}'s FW-VM")]
        for vm, user in app_vm_names(name, community, facts.members[name]):
            vms.append((vm, f"{user}'s APP-VM in {name}" if user else f"an APP-VM of {name}"))
        for vm, owner in vms:
            other = owners.setdefault(vm, owner)
            if other is not owner:
                yield error(path, f'two VMs would be called "{vm}": {other} and {owner}', "rename one of them")


def _memory(facts: Facts) -> Iterator[Finding]:
    infrastructure = facts.infrastructure
    if not facts.complete("nodes"):
        return
    declared = [node.memory_mib for node in infrastructure.nodes.values() if node.memory_mib is not None]
    if len(declared) < len(infrastructure.nodes):
        return
    needed = sum(server.memory_mib for server in infrastructure.file_servers.values())
    for name, community in infrastructure.communities.items():
        count = app_vm_count(community, facts.members[name])
        needed += infrastructure.firewalls.memory_mib + count * community.app_vms.memory_mib
    if needed > sum(declared):
        what = f"the VMs need {needed} MiB of memory, the nodes have {sum(declared)}"
        yield warning(("nodes",), what, "use fewer or smaller VMs, or more nodes")
