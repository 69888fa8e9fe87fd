# SPDX-License-Identifier: GPL-2.0-or-later
"""Ethertypes that APP-VMs of a community may exchange besides IPv4, and those that no file can declare.

The refused ones keep an oversight out. They are no barrier between two APP-VMs that may send each other all of IPv4 in
any case: what holds a frame back is its port, its MAC and whether the two ports are peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field, WithJsonSchema

LOWEST, HIGHEST = 0x0600, 0xFFFF
"""A smaller number at the ethertype's place is the length of an 802.3 frame."""
MAX_ETHERTYPES = 16
"""Of one community: each is an element of a set for each of its APP-VMs."""

# The bounds are told by `vinci.model.checks.ethertypes`, in the notation of ethertypes and with the reason.
Ethertype = Annotated[
    int,
    Field(strict=True),
    WithJsonSchema({"type": "integer", "minimum": LOWEST, "maximum": HIGHEST}),
]


class Refusal(StrEnum):
    """Why no file can declare an ethertype."""

    JUDGED = "passes between peers in any case, by its addresses"
    CONFIGURES = "gives addresses and routes, which are the plan's to give"
    CARRIES = "carries other frames or packets, where no rule looks for what they claim"
    CONTROLS = "controls links and bridges, or who may use them"


REFUSED: Mapping[int, tuple[str, Refusal]] = {
    0x0800: ("IPv4", Refusal.JUDGED),
    0x0806: ("ARP", Refusal.JUDGED),
    0x8035: ("RARP", Refusal.CONFIGURES),
    0x86DD: ("IPv6", Refusal.CONFIGURES),
    0x22F3: ("TRILL", Refusal.CARRIES),
    0x4305: ("batman-adv", Refusal.CARRIES),
    0x6558: ("bridged Ethernet", Refusal.CARRIES),
    0x8100: ("802.1Q VLAN tag", Refusal.CARRIES),
    0x8847: ("MPLS", Refusal.CARRIES),
    0x8848: ("MPLS multicast", Refusal.CARRIES),
    0x8863: ("PPPoE discovery", Refusal.CARRIES),
    0x8864: ("PPPoE session", Refusal.CARRIES),
    0x880B: ("PPP", Refusal.CARRIES),
    0x88A8: ("802.1ad VLAN tag", Refusal.CARRIES),
    0x88E5: ("MACsec", Refusal.CARRIES),
    0x88E7: ("802.1ah backbone tag", Refusal.CARRIES),
    0x892F: ("HSR tag", Refusal.CARRIES),
    0x893F: ("802.1BR tag", Refusal.CARRIES),
    0x894F: ("network service header", Refusal.CARRIES),
    0x9100: ("old QinQ tag", Refusal.CARRIES),
    0x9200: ("old QinQ tag", Refusal.CARRIES),
    0x9300: ("old QinQ tag", Refusal.CARRIES),
    0xDADA: ("switch tag (DSA)", Refusal.CARRIES),
    0xED3E: ("inter-FE tag", Refusal.CARRIES),
    0xF1C1: ("802.1CB redundancy tag", Refusal.CARRIES),
    0x22EA: ("stream reservation", Refusal.CONTROLS),
    0x22F4: ("IS-IS", Refusal.CONTROLS),
    0x8808: ("flow control (pause)", Refusal.CONTROLS),
    0x8809: ("slow protocols (LACP)", Refusal.CONTROLS),
    0x888E: ("802.1X (EAPOL)", Refusal.CONTROLS),
    0x88C7: ("802.11 pre-authentication", Refusal.CONTROLS),
    0x88CC: ("LLDP", Refusal.CONTROLS),
    0x88E3: ("media redundancy (MRP)", Refusal.CONTROLS),
    0x88F5: ("VLAN registration (MVRP)", Refusal.CONTROLS),
    0x88F6: ("multicast registration (MMRP)", Refusal.CONTROLS),
    0x8902: ("connectivity faults (802.1ag)", Refusal.CONTROLS),
    0x9000: ("configuration test (loopback)", Refusal.CONTROLS),
}
"""What each is, and why it is refused."""


def ethertype_text(number: int) -> str:
    """An ethertype as one writes it: `0x88b8`."""
    return f"{number:#06x}"
