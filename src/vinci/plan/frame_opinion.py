# SPDX-License-Identifier: GPL-2.0-or-later
"""Which ethertypes the bridges let pass besides IPv4 and ARP, read back and compared with the declaration.

Every pair of cards of a network is asked, FW-VMs' and FS-VMs' too: each ethertype that the file or a rule names, what
never passes, and one that nobody named; to the card itself, to a group and to everybody. None of these may pass from
another's MAC, to another card's MAC, or to the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vinci.model.ethertypes import ethertype_text
from vinci.model.infrastructure import Infrastructure
from vinci.plan.types import Nic, NodePlan, Vm, VmKind
from vinci.policy.expected import Place, expected_ethertype
from vinci.policy.readback_rules import Packet, RuleSet, Value

UNDECLARED = 0xFEED
"""Stands for every ethertype that neither the file nor a rule names."""
_NEVER: tuple[str | int, ...] = ("ip6", "8021q", "8021ad", 0x8847, 0x8863, 0x88CC)
"""As rules write them: what no file can declare."""
_GROUPS = ("01:0c:cd:01:00:01", "ff:ff:ff:ff:ff:ff")
_NOBODY = "02:56:00:00:00:01"


def check_frames(infrastructure: Infrastructure, node: NodePlan, rules: RuleSet) -> Iterator[str]:
    """What the rules of a node's bridges would do otherwise with frames that are neither IPv4 nor ARP.

    Raises:
        ReadbackError: rules hold something that is not understood.
    """
    declared = {number for community in infrastructure.communities.values() for number in community.ethertypes}
    asked = [UNDECLARED, *_NEVER, *sorted((declared | rules.ethertypes()) - {UNDECLARED})]
    networks: dict[str, list[tuple[Vm, Nic]]] = {}
    for vm in node.vms:
        for nic in vm.nics:
            networks.setdefault(nic.network, []).append((vm, nic))
    for network, cards in networks.items():
        for source, out in cards:
            yield from _host(rules, source, out, asked)
            for target, into in cards:
                if into is not out:
                    third = next((nic.mac for _, nic in cards if nic is not out and nic is not into), _NOBODY)
                    for kind in asked:
                        may = isinstance(kind, int) and expected_ethertype(
                            infrastructure, _place(source), _place(target), network, kind
                        )
                        found = _pair(rules, (out, into), kind, may, (third, _NOBODY))
                        yield from (f"{source.name} -> {target.name}: {text}" for text in found)


def _pair(rules: RuleSet, cards: tuple[Nic, Nic], kind: str | int, may: bool, others: Iterable[str]) -> Iterator[str]:
    """What passes otherwise from one card to another."""
    out, into = cards
    for to in (into.mac, *_GROUPS):
        if rules.passes("forward", _frame(kind, out.mac, to, out, into)) != may:
            what = "is declared and dropped" if may else "passes and is not declared"
            yield f"ethertype {_text(kind)} to {to} {what}"
    for other in others:
        if rules.passes("forward", _frame(kind, other, into.mac, out, into)):
            yield f"ethertype {_text(kind)} passes from {other}, which is not the port's MAC"
        if rules.passes("forward", _frame(kind, out.mac, other, out, into)):
            yield f"ethertype {_text(kind)} to {other} passes, which is another's MAC"


def _host(rules: RuleSet, source: Vm, out: Nic, asked: Iterable[str | int]) -> Iterator[str]:
    for kind in asked:
        for to in (_NOBODY, *_GROUPS):
            if rules.passes("input", _frame(kind, out.mac, to, out, None)):
                yield f"{source.name}: ethertype {_text(kind)} to {to} reaches the host"


def _frame(kind: str | int, source: str, to: str, out: Nic, into: Nic | None) -> Packet:
    """A frame as a bridge sees it. A port's device group is its address as a number."""
    frame: dict[str, Value] = {"ether type": kind, "ether saddr": source, "ether daddr": to}
    frame["meta iifgroup"] = int(out.address)
    if into is not None:
        frame["meta oifgroup"] = int(into.address)
    return frame


def _text(kind: str | int) -> str:
    return ethertype_text(kind) if isinstance(kind, int) else kind


def _place(vm: Vm) -> Place:
    return Place(vm.community, vm.name if vm.kind is VmKind.FS else None, vm.kind is VmKind.FW)
