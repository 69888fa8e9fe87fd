# SPDX-License-Identifier: GPL-2.0-or-later
"""What two plans have in common: the step between them, so that rights go before rights come.

While a change reaches one VM after another, some have the old rules and some the new ones. Together they could let
information take a way that neither plan has: into a share by an old right, out of another by a new one. So every VM
is first brought to what both plans permit, and only then to the new plan. A pure function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from ipaddress import IPv4Address

from vinci.plan.types import FileService, Firewall, FlowRule, NodePlan, Plan, PlannedShare, ShareGrant
from vinci.policy.cil import file_policy


def narrowed(old: Plan, new: Plan, node: str, levels: int, categories: int) -> NodePlan | None:
    """A node's old plan without what the new one does not permit; None where only one of them has the node.

    Args:
        old: what is in force.
        new: what shall be.
        node: the node's name.
        levels: number of sensitivity levels, of the plan with more of them.
        categories: number of categories, of the plan with more of them.
    """
    before, after = (next((each for each in plan.nodes if each.node == node), None) for plan in (old, new))
    if before is None or after is None:
        return None
    firewalls = {each.vm: each for each in after.firewalls}
    services = {each.vm: each for each in after.file_services}
    known = {(each.name, each.label) for each in new.communities}
    labels = {each.name: each.label for each in old.communities if (each.name, each.label) in known}

    def service(each: FileService) -> FileService:
        theirs = services[each.vm]
        members = tuple(member for member in each.members if member in theirs.members and member.community in labels)
        grantees = {(member.community, member.user) for member in members} | {(name, None) for name in labels}
        shares = _shares(each.shares, theirs.shares, grantees)
        served = dict.fromkeys(member.community for member in each.members if member.community in labels)
        served.update(dict.fromkeys(grant.community for share in shares for grant in share.grants))
        policy = file_policy(levels, categories, [(name, labels[name]) for name in served], members, shares)
        return replace(each, shares=shares, members=members, policy_cil=policy)

    return replace(
        before,
        firewalls=tuple(_firewall(each, firewalls[each.vm]) for each in before.firewalls if each.vm in firewalls),
        file_services=tuple(service(each) for each in before.file_services if each.vm in services),
    )


def _firewall(old: Firewall, new: Firewall) -> Firewall:
    return replace(old, outbound=_flows(old.outbound, new.outbound), inbound=_flows(old.inbound, new.inbound))


def _flows(old: Iterable[FlowRule], new: Iterable[FlowRule]) -> tuple[FlowRule, ...]:
    """Flows in both, between the VMs that both name."""
    theirs = {_without_addresses(each): each for each in new}
    both = ((each, theirs.get(_without_addresses(each))) for each in old)
    common = (
        replace(
            each,
            source_addresses=_addresses(each.source_addresses, other.source_addresses),
            to_addresses=_addresses(each.to_addresses, other.to_addresses),
        )
        for each, other in both
        if other is not None
    )
    return tuple(each for each in common if each.source_addresses and each.to_addresses)


def _without_addresses(flow: FlowRule) -> FlowRule:
    return replace(flow, source_addresses=(), to_addresses=())


def _addresses(old: tuple[IPv4Address, ...], new: tuple[IPv4Address, ...]) -> tuple[IPv4Address, ...]:
    return tuple(address for address in old if address in new)


_Grantees = Collection[tuple[str, str | None]]
"""The communities, and the users of a community, that are in both plans with the same label and UIDs."""


def _shares(
    old: tuple[PlannedShare, ...], new: tuple[PlannedShare, ...], grantees: _Grantees
) -> tuple[PlannedShare, ...]:
    """All old shares, so that their files keep a label that is known; grants only where both plans give them."""
    theirs = {each.name: each for each in new}
    return tuple(
        replace(
            share,
            grants=_grants(share, theirs.get(share.name), grantees),
            trusted=_trusted(share, theirs.get(share.name), grantees),
        )
        for share in old
    )


def _grants(old: PlannedShare, new: PlannedShare | None, grantees: _Grantees) -> tuple[ShareGrant, ...]:
    if new is None or (old.label, old.context) != (new.label, new.context):
        return ()
    given = {(grant.community, grant.user): grant.operations for grant in new.grants}
    both = (
        replace(grant, operations=grant.operations & given.get((grant.community, grant.user), frozenset()))
        for grant in old.grants
        if (grant.community, grant.user) in grantees
    )
    return tuple(grant for grant in both if grant.operations)


def _trusted(old: PlannedShare, new: PlannedShare | None, grantees: _Grantees) -> tuple[str, ...]:
    theirs = new.trusted if new is not None else ()
    return tuple(name for name in old.trusted if name in theirs and (name, None) in grantees)
