# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session and a running VM rest on: what of them may not outlive a change of the declaration."""

from __future__ import annotations

from vinci.node.in_force import InForce
from vinci.plan.types import Member, Vm, VmKind
from vinci.store.sqlite import Session


def keeps_right(session: Session, before: InForce | None, after: InForce) -> bool:
    """Whether a session goes on when `after` comes into force.

    It does not when its user is no member any more, or has other UIDs: the file servers would take what runs under the
    old ones for the user who gets them. Nor does it in a VM that is another's, or that `must_end` tells of.
    """
    member, vm = _member(session, after), after.vms.get(session.vm)
    if member is None or vm is None or vm.community != session.community or vm.user not in (None, session.user):
        return False
    return before is None or (_member(session, before) == member and session.vm not in must_end(before, after))


def must_end(before: InForce, after: InForce) -> list[str]:
    """APP-VMs that have to be gone before `after` is in force: their communities get another label.

    What such a VM has in memory was read under the old label, and would be written under the new one.
    """
    return [
        name
        for name, vm in before.vms.items()
        if vm.kind is VmKind.APP and name in after.vms and _label(after.vms[name]) != _label(vm)
    ]


def _label(vm: Vm) -> str | None:
    return vm.label.text if vm.label else None  # its numbers may change with other labels


def _member(session: Session, in_force: InForce) -> Member | None:
    members = in_force.plan.members
    return next((m for m in members if (m.user, m.community) == (session.user, session.community)), None)
