# SPDX-License-Identifier: GPL-2.0-or-later
"""What changes from one plan to another, as sentences."""

from __future__ import annotations

from collections.abc import Mapping

from vinci.plan.types import Bridge, FileService, Firewall, Plan, Vm


def difference(current: Plan | None, wanted: Plan) -> list[str]:
    """What `up` would change, removals first; empty when the plans are the same. `current` None: nothing is up."""
    old_vms, new_vms = _vms(current), _vms(wanted)
    changes = [f"stop VM {name}" for name in old_vms if name not in new_vms]
    for name, vm in new_vms.items():
        if name not in old_vms:
            changes.append(f"start VM {name} ({vm.kind}{', ' + vm.label.text if vm.label else ''})")
        elif old_vms[name] != vm:
            changes.append(f"restart VM {name}: its definition changes")
    changes += _named("bridge rules of", _bridges(current), _bridges(wanted))
    changes += _named("firewall rules of", _firewalls(current), _firewalls(wanted))
    changes += _named("shares, policy and subjects of", _services(current), _services(wanted))
    if current is not None and current.members != wanted.members:
        before, after = set(current.members), set(wanted.members)
        changes += [f"remove {m.user} from {m.community}" for m in current.members if m not in after]
        changes += [f"add {m.user} to {m.community}" for m in wanted.members if m not in before]
    return changes


def _named(what: str, before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    removed = [f"remove {what} {name}" for name in before if name not in after]
    added = [f"add {what} {name}" for name in after if name not in before]
    changed = [f"change {what} {name}" for name in after if name in before and before[name] != after[name]]
    return removed + changed + added


def _vms(plan: Plan | None) -> dict[str, Vm]:
    return {vm.name: vm for node in plan.nodes for vm in node.vms} if plan else {}


def _bridges(plan: Plan | None) -> dict[str, Bridge]:
    return {bridge.network: bridge for node in plan.nodes for bridge in node.bridges} if plan else {}


def _firewalls(plan: Plan | None) -> dict[str, Firewall]:
    return {firewall.vm: firewall for node in plan.nodes for firewall in node.firewalls} if plan else {}


def _services(plan: Plan | None) -> dict[str, FileService]:
    return {service.vm: service for node in plan.nodes for service in node.file_services} if plan else {}
