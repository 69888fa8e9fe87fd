# SPDX-License-Identifier: GPL-2.0-or-later
"""Which virtual machines a declaration asks for, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence

from vinci.model.infrastructure import AppVmMode, Community, Infrastructure

APP_OFFSET = 10
"""Offset of the first APP-VM's address in its community's network."""
MAX_FS_LEGS = APP_OFFSET - 2
"""FS-VM legs that fit between the FW-VM's address and the first APP-VM."""


def members_of(infrastructure: Infrastructure) -> dict[str, tuple[str, ...]]:
    """The users of each declared community, in file order."""
    members: dict[str, list[str]] = {name: [] for name in infrastructure.communities}
    for user, declared in infrastructure.users.items():
        for community in declared.communities:
            if community in members:
                members[community].append(user)
    return {name: tuple(users) for name, users in members.items()}


def app_vm_names(name: str, community: Community, members: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """The APP-VMs of a community: (VM name, user it is dedicated to or None)."""
    if community.app_vms.mode is AppVmMode.PER_USER:
        return tuple((f"{name}-{user.replace('_', '-')}", user) for user in members)
    return tuple((f"{name}-{number}", None) for number in range(1, community.app_vms.count + 1))


def app_vm_count(community: Community, members: Sequence[str]) -> int:
    """How many APP-VMs a community has."""
    return len(members) if community.app_vms.mode is AppVmMode.PER_USER else community.app_vms.count


def firewall_name(community: str) -> str:
    """The name of a community's FW-VM."""
    return f"{community}-fw"
