# SPDX-License-Identifier: GPL-2.0-or-later
"""The account that a login needs in an APP-VM, and the shares that are mounted for it."""

from __future__ import annotations

from vinci.model.infrastructure import Operation, ShareKind
from vinci.plan.types import FileService, NodePlan, Plan, PlannedShare, ShareGrant, Vm

USER_GROUP_GID = 60_000
"""The one group of all users inside guests: rights come from labels and the share's access, not from groups."""
MOUNT_OPTIONS = "vers=4.2,sec=sys,hard,noatime,nosuid,nodev"


def account_table(plan: Plan, node_plan: NodePlan, vm: Vm, user: str, community: str) -> str:
    """What `app-login` in the APP-VM reads: one `account` line, one `mount` line for each share the user may use."""
    member = next(m for m in plan.members if m.user == user and m.community == community)
    lines = [f"account\t{user}\t{member.local_uid}\t{USER_GROUP_GID}\t{user}\t{home_of(user)}\t/bin/bash"]
    for service in node_plan.file_services:
        address = _leg(node_plan, service, community)
        if address is None:
            continue
        for share in service.shares:
            if not _may_use(share, user, community):
                continue
            own = share.kind is ShareKind.HOMES
            path, mount = (f"{_exported(share)}/{user}", home_of(user)) if own else (_exported(share), share.mount)
            lines.append(f"mount\t{address}:{path}\t{mount}\t{_options(share, user, community)}")
    return "\n".join(lines) + "\n"


def home_of(user: str) -> str:
    """A user's home directory in an APP-VM."""
    return f"/home/{user}"


def _options(share: PlannedShare, user: str, community: str) -> str:
    """Without `write`, appends are sent at once: a refused one is then the result of write(2), not of close(2)."""
    operations = {
        operation for grant in share.grants if _fits(grant, user, community) for operation in grant.operations
    }
    append_only = Operation.APPEND in operations and Operation.WRITE not in operations
    return MOUNT_OPTIONS + (",sync" if append_only else "")


def _exported(share: PlannedShare) -> str:
    """The share's path in the server's NFSv4 pseudo file system."""
    return f"/{share.name}"


def _may_use(share: PlannedShare, user: str, community: str) -> bool:
    return any(_fits(grant, user, community) for grant in share.grants)


def _fits(grant: ShareGrant, user: str, community: str) -> bool:
    return grant.community == community and grant.user in (None, user)


def _leg(node_plan: NodePlan, service: FileService, community: str) -> str | None:
    server = next(vm for vm in node_plan.vms if vm.name == service.vm)
    return next((str(nic.address) for nic in server.nics if nic.network == community), None)
