# SPDX-License-Identifier: GPL-2.0-or-later
"""What changes from one plan to another, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from vinci.model.infrastructure import Infrastructure
from vinci.plan.types import Bridge, FileService, Firewall, Member, Plan, Vm, VmKind


def difference(current: Plan | None, wanted: Plan) -> list[str]:
    """What `up` would change, removals first; empty when the plans are the same. `current` None: nothing is up."""
    old_vms, new_vms = _vms(current), _vms(wanted)
    changes = [f"stop VM {name}" for name in old_vms if name not in new_vms]
    for name, vm in new_vms.items():
        if name not in old_vms:
            changes.append(f"start VM {name} ({vm.kind}{', ' + vm.label.text if vm.label else ''})")
        elif not _same_machine(old_vms[name], vm):
            changes.append(f"restart VM {name}: its definition changes")
        elif old_vms[name].response != vm.response:
            changes.append(f"change what is done when VM {name} is compromised: {vm.response}")
    changes += _named("bridge rules of", _bridges(current), _bridges(wanted))
    changes += _named("firewall rules of", _firewalls(current), _firewalls(wanted))
    changes += _named("shares, policy and subjects of", _services(current), _services(wanted))
    if current is not None and current.members != wanted.members:
        before, after = _members(current), _members(wanted)
        changes += [f"remove {user} from {community}" for user, community in before if (user, community) not in after]
        changes += [
            f"change the UID of {user} in {community}: sessions there end"
            for user, community in after
            if before.get((user, community), after[user, community]) != after[user, community]
        ]
        changes += [f"add {user} to {community}" for user, community in after if (user, community) not in before]
    return changes


def _same_machine(old: Vm, new: Vm) -> bool:
    """Whether a running VM stays what it is: what users have in memory keeps only an APP-VM to its label."""
    if VmKind.APP in (old.kind, new.kind) and _label(old) != _label(new):
        return False
    return replace(old, response=new.response, label=new.label) == new


def _label(vm: Vm) -> str | None:
    return vm.label.text if vm.label else None


def declared_changes(old: Infrastructure, new: Infrastructure, *, hashes: bool = True) -> list[str]:
    """What changes of a file that neither the plan nor the flows show: passwords, login rules, the watch, reasons.

    Values are not told: a password's hash is nobody's business. Without `hashes`, `old` came without them.
    """
    paths = [path for path in _differing(old.model_dump(), new.model_dump()) if _only_declared(path)]
    return [f"change {'.'.join(path)} of the file" for path in paths if hashes or path[-1] != "password_hash"]


_TOLD = frozenset({"communities", "users", "file_servers", "shares", "flows", "transit", "address_pool", "firewalls"})
"""Sections whose changes show in machines, rules, members or flows, but for what follows."""
_NOT_TOLD = frozenset({"password_hash", "full_name", "trusted", "reason", "description"})


def _only_declared(path: tuple[str, ...]) -> bool:
    return path[0] not in _TOLD or path[-1] in _NOT_TOLD


def _differing(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the values that differ; what comes or goes is a difference of what it is in."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.keys() != new.keys():
            yield path
        pairs = [(str(key), old[key], new[key]) for key in old if key in new]
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = [(str(number), *each) for number, each in enumerate(zip(old, new, strict=True), start=1)]
    else:
        if old != new:
            yield path
        return
    for key, before, after in pairs:
        yield from _differing(before, after, (*path, key))


def _named(what: str, before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    removed = [f"remove {what} {name}" for name in before if name not in after]
    added = [f"add {what} {name}" for name in after if name not in before]
    changed = [f"change {what} {name}" for name in after if name in before and before[name] != after[name]]
    return removed + changed + added


def _members(plan: Plan) -> dict[tuple[str, str], Member]:
    return {(member.user, member.community): member for member in plan.members}


def _vms(plan: Plan | None) -> dict[str, Vm]:
    return {vm.name: vm for node in plan.nodes for vm in node.vms} if plan else {}


def _bridges(plan: Plan | None) -> dict[str, Bridge]:
    return {bridge.network: bridge for node in plan.nodes for bridge in node.bridges} if plan else {}


def _firewalls(plan: Plan | None) -> dict[str, Firewall]:
    return {firewall.vm: firewall for node in plan.nodes for firewall in node.firewalls} if plan else {}


def _services(plan: Plan | None) -> dict[str, FileService]:
    return {service.vm: service for node in plan.nodes for service in node.file_services} if plan else {}
