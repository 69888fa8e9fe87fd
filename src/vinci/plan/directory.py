# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose an address is, without planning everything: a question about one card costs no plan of ten thousand VMs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network

from vinci.model.infrastructure import Infrastructure
from vinci.model.machines import APP_OFFSET, app_vm_names, firewall_name, members_of
from vinci.plan.addresses import bridge_of, community_networks, mac_of, tap_of
from vinci.plan.types import VmKind

_FIREWALL, _FIRST_SERVER, _FIRST_TRANSIT = 1, 2, 1


@dataclass(frozen=True, slots=True)
class Card:
    """One network card. `community` is that of an APP-VM or FW-VM; an FS-VM has none."""

    vm: str
    kind: VmKind
    community: str | None
    address: IPv4Address
    network: IPv4Network

    @property
    def mac(self) -> str:
        """Its MAC."""
        return mac_of(self.address)

    @property
    def bridge(self) -> str:
        """The bridge it hangs on."""
        return bridge_of(self.network)


class Directory:
    """The cards of a valid infrastructure, as `vinci.plan.compile` plans them."""

    def __init__(self, infrastructure: Infrastructure) -> None:
        """Nothing is looked up before it is asked for."""
        self._infrastructure = infrastructure

    @cached_property
    def _networks(self) -> dict[str, IPv4Network]:
        return community_networks(self._infrastructure)

    def community_at(self, untrusted_address: object) -> str | None:
        """The community in whose network an address lies; None for no address, too."""
        address = _address(untrusted_address)
        if address is None:
            return None
        return next((name for name, network in self._networks.items() if address in network), None)

    def card_at(self, untrusted_address: object) -> Card | None:
        """The card with an address; None when no VM has it."""
        address, transit = _address(untrusted_address), self._infrastructure.transit
        if address is None:
            return None
        if address in transit:
            names = list(self._infrastructure.communities)
            place = int(address) - int(transit[_FIRST_TRANSIT])
            if not 0 <= place < len(names):
                return None
            return Card(firewall_name(names[place]), VmKind.FW, names[place], address, transit)
        community = self.community_at(address)
        return None if community is None else self._card_of(community, address)

    def card_with(self, untrusted_tap: str) -> Card | None:
        """The card whose port has a name; None when there is none."""
        try:
            address = IPv4Address(int(untrusted_tap[1:], 16))
        except ValueError:
            return None
        return self.card_at(address) if tap_of(address) == untrusted_tap else None

    def _card_of(self, community: str, address: IPv4Address) -> Card | None:
        network = self._networks[community]
        place = int(address) - int(network.network_address)
        if place == _FIREWALL:
            return Card(firewall_name(community), VmKind.FW, community, address, network)
        if place < APP_OFFSET:
            server = self._server(community, place - _FIRST_SERVER)
            return None if server is None else Card(server, VmKind.FS, None, address, network)
        members = members_of(self._infrastructure)[community]
        names = app_vm_names(community, self._infrastructure.communities[community], members)
        number = place - APP_OFFSET
        return Card(names[number][0], VmKind.APP, community, address, network) if number < len(names) else None

    def _server(self, community: str, number: int) -> str | None:
        """The file server with this number, if it serves the community."""
        servers = list(self._infrastructure.file_servers)
        if not 0 <= number < len(servers):
            return None
        served = any(
            share.server == servers[number] and grantee.partition(":")[0] == community
            for share in self._infrastructure.shares.values()
            for grantee in share.access
        )
        return servers[number] if served else None


def _address(untrusted: object) -> IPv4Address | None:
    try:
        return IPv4Address(str(untrusted))
    except ValueError:
        return None
