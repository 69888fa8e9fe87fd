# SPDX-License-Identifier: GPL-2.0-or-later
"""Static addresses: inside a community, address and label are one to one, so an address is an identity.

Layout of a community's network: first host address = inner leg of its FW-VM, then one address per FS-VM leg, then
from the tenth address on the APP-VMs. MAC, tap and bridge names are derived from addresses, so no two can collide.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from vinci.model.infrastructure import Community, Infrastructure
from vinci.model.machines import APP_OFFSET

DEFAULT_PREFIX = 24


def mac_of(address: IPv4Address) -> str:
    """The MAC of the card with this address: 02:56 (locally administered, 'V') and the four address bytes."""
    return "02:56:" + address.packed.hex(":")


def tap_of(address: IPv4Address) -> str:
    """The name of the port with this address, at most 15 characters (IFNAMSIZ)."""
    return "v" + address.packed.hex()


def bridge_of(network: IPv4Network) -> str:
    """The name of a network's bridge."""
    return "b" + network.network_address.packed.hex()


def gateway_of(network: IPv4Network) -> IPv4Address:
    """The inner address of the community's FW-VM."""
    return network[1]


def file_server_leg(network: IPv4Network, index: int) -> IPv4Address:
    """The address of the FS-VM number `index` (in file order) in a community's network."""
    return network[2 + index]


def app_vm_address(network: IPv4Network, index: int) -> IPv4Address:
    """The address of APP-VM number `index` in a community's network."""
    return network[APP_OFFSET + index]


def community_networks(infrastructure: Infrastructure) -> dict[str, IPv4Network]:
    """Each community's network: the declared one, else the next free /24 of the address pool, in file order."""
    declared = [c.network for c in infrastructure.communities.values() if c.network is not None]
    taken = [*declared, infrastructure.transit]
    free = _free_networks(infrastructure.address_pool, taken)
    return {name: _network_of(community, free) for name, community in infrastructure.communities.items()}


def _network_of(community: Community, free: Iterator[IPv4Network]) -> IPv4Network:
    return community.network if community.network is not None else next(free)


def _free_networks(pool: IPv4Network, taken: list[IPv4Network]) -> Iterator[IPv4Network]:
    ranges = sorted((int(n.network_address), int(n.broadcast_address)) for n in taken if n.overlaps(pool))
    step = 1 << (32 - max(DEFAULT_PREFIX, pool.prefixlen))
    position = 0
    for start in range(int(pool.network_address), int(pool.broadcast_address) + 1, step):
        end = start + step - 1
        while position < len(ranges) and ranges[position][1] < start:
            position += 1
        if position < len(ranges) and ranges[position][0] <= end:
            continue
        yield IPv4Network((start, max(DEFAULT_PREFIX, pool.prefixlen)))
