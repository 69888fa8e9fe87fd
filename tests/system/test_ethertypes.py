# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of declared ethertypes, by real rules on a real bridge. Needs root; boots no VM.

Each frame that has to be held back is sent without rules first, and once more with the one protection that holds it
back taken away: both times it must arrive, or the test would prove nothing.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest
from network_rig import BROADCAST, Rig, ether, mac_of, port, tap_of, udp

from vinci.node.network import NodeNetwork
from vinci.plan.bridge_rules import bridge_ruleset, difference, quarantine, release
from vinci.plan.types import Bridge

pytestmark = pytest.mark.system

FW, FS, A, B, C = "10.20.1.1", "10.20.1.2", "10.20.1.10", "10.20.1.11", "10.20.1.12"
APPS = (A, B, C)
GOOSE, VALUES, PROFINET = 0x88B8, 0x88BA, 0x8892
TO_GOOSE, FOREIGN_MAC = "01:0c:cd:01:00:01", "02:56:0a:14:09:09"
VCN = Bridge(
    "b0a140100",
    "scada",
    IPv4Network("10.20.1.0/24"),
    (port(FW, APPS, ["10.20.2.0/24"]), port(FS, APPS), *(port(each, (FW, FS), mesh=True) for each in APPS)),
    (GOOSE, VALUES),
)
ALONE = replace(VCN, ports=tuple(replace(each, mesh=False) for each in VCN.ports))
"""The same community with `peers: none`."""


EVENT = b"event 0000"
numbers = itertools.count(1)


def frame(to: str, source: str = mac_of(A), kind: int = GOOSE, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    return ether(to, source, kind, EVENT, tags)


def arrives(rig: Rig, sender: str, sent: bytes, to: str) -> bool:
    """Whether a frame gets from one to another. Each has a number: one that was flooded earlier is not taken for it."""
    numbered = sent.replace(EVENT, b"event %04d" % next(numbers))
    return rig.delivered(sender, numbered, to, FS if to in APPS else B)


LEGAL = {
    "to one": (A, frame(mac_of(B)), {B}),
    "to one, the other way": (B, frame(mac_of(A), mac_of(B), VALUES), {A}),
    "to a group": (A, frame(TO_GOOSE), {B, C}),
    "to all": (A, frame(BROADCAST, kind=VALUES), {B, C}),
}


@pytest.mark.parametrize("name", LEGAL)
def test_it_reaches_those_app_vms_that_it_is_for_and_leaves_no_record(vcn: Rig, name: str) -> None:
    sender, sent, heard = LEGAL[name]
    for to in {FW, FS, *APPS} - {sender}:
        assert arrives(vcn, sender, sent, to) == (to in heard), to
    assert vcn.records_until(A, FS) == []


def changed(change: Callable[[str, list[Any]], list[Any]]) -> dict[str, Any]:
    """The rules with other statements: `change` makes them of a chain's name and the statements of each rule."""
    made: dict[str, Any] = json.loads(json.dumps(bridge_ruleset([VCN])))
    for command in made["nftables"]:
        rule = command.get("add", {}).get("rule")
        if rule is not None:
            rule["expr"] = change(rule["chain"], rule["expr"])
    return made


def lacking(word: str, chain: str = "forward") -> dict[str, Any]:
    """The rules for declared ethertypes without the matches in which a word stands."""

    def change(where: str, expr: list[Any]) -> list[Any]:
        ours = where == chain and (chain == "declared" or "@ethertypes" in str(expr))
        return [each for each in expr if word not in str(each)] if ours else expr

    return changed(change)


def with_ethertypes_of(*addresses: str, kind: int = GOOSE) -> dict[str, Any]:
    """The rules with more ports that may exchange an ethertype."""
    elements = [{"concat": [int(each.address), kind]} for each in VCN.ports if str(each.address) in addresses]
    more = {"add": {"element": {"family": "bridge", "table": "vinci", "name": "ethertypes", "elem": elements}}}
    return {"nftables": [*bridge_ruleset([VCN])["nftables"], more]}


def with_profinet() -> dict[str, Any]:
    return with_ethertypes_of(*APPS, kind=PROFINET)


ATTACKS = {
    # name: (sender, frame, who would see it, reason recorded, rules without what holds it back)
    "an undeclared ethertype": (A, frame(mac_of(B), kind=PROFINET), B, "ethertype", with_profinet),
    "an undeclared one to a group": (A, frame(TO_GOOSE, kind=PROFINET), B, "ethertype", with_profinet),
    "another MAC": (A, frame(mac_of(B), FOREIGN_MAC), B, "spoofed-mac", lambda: lacking("saddr")),
    "a neighbour's MAC": (A, frame(mac_of(B), mac_of(C)), B, "spoofed-mac", lambda: lacking("saddr")),
    "another MAC to a group": (A, frame(TO_GOOSE, FOREIGN_MAC), B, "spoofed-mac", lambda: lacking("saddr")),
    "to the FW-VM": (A, frame(mac_of(FW)), FW, "not-a-peer", lambda: with_ethertypes_of(FW)),
    "to the FS-VM": (A, frame(mac_of(FS)), FS, "not-a-peer", lambda: with_ethertypes_of(FS)),
    "from the FS-VM": (FS, frame(mac_of(B), mac_of(FS)), B, "ethertype", lambda: with_ethertypes_of(FS)),
    "from the FW-VM to a group": (FW, frame(TO_GOOSE, mac_of(FW)), B, "ethertype", lambda: with_ethertypes_of(FW)),
    "a priority tag": (A, frame(mac_of(B), tags=((0x8100, 0),)), B, "vlan", lambda: lacking("@ethertypes")),
    "a VLAN tag to a group": (A, frame(TO_GOOSE, tags=((0x8100, 7),)), B, "vlan", lambda: lacking("@ethertypes")),
    "IPv6": (A, frame(mac_of(B), kind=0x86DD), B, "ipv6", lambda: with_ethertypes_of(*APPS, kind=0x86DD)),
    "a length": (A, frame(mac_of(B), kind=40), B, "ethertype", lambda: lacking("@ethertypes")),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_everything_else_is_dropped_and_recorded(rig: Rig, name: str) -> None:
    sender, sent, target, reason, weaker = ATTACKS[name]
    rig.flush()
    assert arrives(rig, sender, sent, target), "without rules it must arrive"
    rig.load(weaker())
    assert arrives(rig, sender, sent, target), "without what holds it back it must arrive"
    rig.load()
    rig.records_until(A, FS)
    assert not arrives(rig, sender, sent, target)
    (record,) = rig.dropped((tap_of(sender), reason))
    assert record.source_mac == sent[6:12].hex(":")


UNHEARD = {
    # name: (frame, who must not hear it, rules without what holds it back)
    "the FS-VM a group's": (frame(TO_GOOSE), FS, lambda: with_ethertypes_of(FS)),
    "the FW-VM a group's": (frame(TO_GOOSE), FW, lambda: with_ethertypes_of(FW)),
    "the FW-VM a broadcast": (frame(BROADCAST), FW, lambda: with_ethertypes_of(FW)),
    "a peer another's": (frame(mac_of(C)), B, lambda: lacking("daddr", "declared")),
}


@pytest.mark.parametrize("name", UNHEARD)
def test_a_flooded_copy_is_heard_by_nobody_else(rig: Rig, name: str) -> None:
    sent, target, weaker = UNHEARD[name]
    rig.load(weaker())
    assert arrives(rig, A, sent, target), "without what holds it back it must arrive"
    rig.load()
    rig.records_until(A, FS)
    assert not arrives(rig, A, sent, target)
    assert rig.records_until(A, FS) == []


def test_app_vms_that_are_no_peers_exchange_none(rig: Rig) -> None:
    rig.load(bridge_ruleset([ALONE]))
    for to in (mac_of(B), TO_GOOSE, BROADCAST):
        assert not arrives(rig, A, frame(to), B)
        rig.dropped((tap_of(A), "ethertype"))


def test_quarantine_ends_it_both_ways(vcn: Rig) -> None:
    confined = VCN.ports[2]
    vcn.load(quarantine(VCN, confined))
    for to in (mac_of(B), TO_GOOSE):
        assert not arrives(vcn, A, frame(to), B)
        vcn.dropped((tap_of(A), "quarantined"))
    for to in (mac_of(A), TO_GOOSE):
        vcn[B].send(frame(to, mac_of(B)))
    vcn.dropped((tap_of(B), "quarantined"))
    assert arrives(vcn, B, frame(TO_GOOSE, mac_of(B)), C)
    vcn.load(release(VCN, confined))
    assert arrives(vcn, B, frame(TO_GOOSE, mac_of(B)), A)


def test_ethertypes_come_and_go_while_others_go_on(vcn: Rig) -> None:
    wider = replace(VCN, ethertypes=(GOOSE, VALUES, PROFINET))
    sent = frame(mac_of(B), kind=PROFINET)
    assert not arrives(vcn, A, sent, B)
    vcn.load(difference([VCN], [wider]))
    assert arrives(vcn, A, sent, B)
    assert arrives(vcn, A, frame(TO_GOOSE), B)
    vcn.load(difference([wider], [VCN]))
    assert not arrives(vcn, A, sent, B)
    assert vcn.delivered(A, udp(A, B), B, FS)
    assert vcn.delivered(A, udp(A, FS), FS, B)


def test_the_nodes_own_ports_carry_it() -> None:
    """With the flags that the agent gives ports: a multicast is copied to the community's APP-VMs and to no other."""
    rig = Rig(f"vf{os.getpid()}", VCN)
    try:
        node = NodeNetwork(rig.node.name)
        rig.node(node.converge, [VCN])
        for name in ("to one", "to a group", "to all"):
            sender, sent, heard = LEGAL[name]
            for to in {FW, FS, *APPS} - {sender}:
                assert arrives(rig, sender, sent, to) == (to in heard), (name, to)
        rig.flush()
        assert not arrives(rig, A, frame(TO_GOOSE), FS), "the flags alone keep multicasts from other ports"
        rig.node(node.converge, [replace(VCN, ethertypes=())])
        rig.flush()
        assert not arrives(rig, A, frame(TO_GOOSE), B), "and from all where nothing is declared"
    finally:
        rig.close()
