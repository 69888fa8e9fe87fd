# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables that an FS-VM's commands read: its shares, and the subjects of the users who are logged in now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vinci.model.infrastructure import ShareKind
from vinci.plan.accounts import USER_GROUP_GID
from vinci.plan.types import FileService, Member, NodePlan, PlannedShare
from vinci.policy.cil import mount_context

NOBODY = 65_534


def share_table(shares: Sequence[PlannedShare], members: Sequence[Member]) -> str:
    """One line a share: name, kind, path, context, then `user:uid` for each home directory (TAB between all)."""
    return "".join("\t".join(_share_row(share, members)) + "\n" for share in shares)


def _share_row(share: PlannedShare, members: Sequence[Member]) -> list[str]:
    row = [share.name, share.kind.value, share.path, share.context]
    if share.kind is ShareKind.HOMES:
        communities = {grant.community for grant in share.grants}
        row += [f"{member.user}:{member.uid}" for member in members if member.community in communities]
    return row


def subject_table(service: FileService, plan: NodePlan, sessions: Iterable[tuple[str, str, str]]) -> str:
    """One line a pair (address, local UID) that the FS-VM may know now: address, local UID, UID, GID, context.

    Args:
        service: the FS-VM's service.
        plan: the node's plan, for the addresses of VMs.
        sessions: (VM, user, community) of each open session. Repeated ones count once.

    Each VM with a session has one more row, for UID 0: it may mount and do nothing else.
    """
    members = {(member.user, member.community): member for member in service.members}
    vms = {vm.name: vm for vm in plan.vms}
    rows: dict[str, None] = {}
    for name, user, community in sessions:
        vm, member = vms.get(name), members.get((user, community))
        if vm is None or member is None or vm.label is None or vm.community != community:
            continue
        address = vm.nics[0].address
        rows[f"{address}\t0\t{NOBODY}\t{NOBODY}\t{mount_context(community, vm.label)}"] = None
        rows[f"{address}\t{member.local_uid}\t{member.uid}\t{USER_GROUP_GID}\t{member.context}"] = None
    return "".join(row + "\n" for row in rows)
