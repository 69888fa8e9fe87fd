# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node reports of itself: what is declared, beside what runs."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from vinci.plan.types import Vm
from vinci.vmm.host import RunningVm

if TYPE_CHECKING:
    from vinci.node.agent import Agent

Json = dict[str, object]


async def status_of(agent: Agent) -> Json:
    """The node's state as plain data for the CLI and for `--json`."""
    running = await agent.running()
    in_force = agent.in_force
    report: Json = {
        "node": agent.paths.node,
        "namespace": agent.paths.namespace,
        "accelerator": agent.accelerator.name.lower(),
        "agent_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "declaration": None,
        "invalid_declaration": agent.invalid,
        "evidence_key": agent.evidence.public_key,
        "sessions": [
            {"id": s.id, "user": s.user, "community": s.community, "vm": s.vm, "started": s.started}
            for s in agent.sessions()
        ],
        "denials": {event.value: count for event, count in sorted(agent.audit.counts.items())},
    }
    if in_force is None:
        report["vms"] = [{"name": vm.name, "state": vm.state.value} for vm in running.values()]
        return report
    report["declaration"] = {"name": in_force.plan.name, "path": in_force.path, "version": in_force.version}
    wanted = {vm.name for vm in agent.wanted_vms()}
    report["communities"] = [
        {"name": c.name, "label": c.label.text, "network": str(c.network), "app_vms": list(c.app_vms)}
        for c in in_force.plan.communities
    ]
    report["vms"] = [
        {
            **_vm(vm, running.get(vm.name), vm.name in agent.reachable, vm.name in wanted),
            "trust": agent.introspection.state_of(vm.name),
        }
        for vm in in_force.node_plan.vms
    ]
    report["shares"] = [
        {
            "name": share.name,
            "server": share.server,
            "label": share.label.text,
            "mount": share.mount,
            "access": {
                grant.community + (f":{grant.user}" if grant.user else ""): sorted(grant.operations)
                for grant in share.grants
            },
        }
        for share in in_force.plan.shares
    ]
    report["flows"] = [
        {
            "from": rule.source,
            "to": rule.to,
            "service": f"{rule.protocol}/{rule.port}",
            "direction": "one-way" if rule.one_way else "both",
        }
        for firewall in in_force.node_plan.firewalls
        for rule in firewall.outbound
    ]
    return report


def _vm(vm: Vm, running: RunningVm | None, reachable: bool, wanted: bool) -> Json:
    if running is None:
        state = "stopped" if wanted else "not in use"
    elif not reachable:
        state = "unreachable"
    else:
        state = running.state.value
    return {
        "name": vm.name,
        "kind": vm.kind.value,
        "community": vm.community,
        "user": vm.user,
        "label": vm.label.text if vm.label else None,
        "addresses": [str(nic.address) for nic in vm.nics],
        "state": state,
        "memory_mib": vm.memory_mib,
        "cpu_seconds": round(running.cpu_seconds, 1) if running else None,
    }
