# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole verification: open sessions, measure files and network, compare, report."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from vinci.introspect.findings import Verdict
from vinci.model.infrastructure import ShareKind
from vinci.model.services import resolve_service
from vinci.node.channel import ChannelError
from vinci.node.reconcile import Progress, Report
from vinci.node.verification.checks import Check, Kind, Measured, yes_if
from vinci.node.verification.evidence import keep_evidence
from vinci.node.verification.files import FileSubject, measure_files
from vinci.node.verification.network import ALWAYS_TRIED, Endpoint, measure_reach
from vinci.plan.accounts import USER_GROUP_GID
from vinci.plan.types import Member, Vm, VmKind
from vinci.policy.expected import MEASURED_OPERATIONS, Place
from vinci.policy.login import Entrance

if TYPE_CHECKING:
    from vinci.node.agent import Agent, InForce

Json = dict[str, object]
Measurement = Coroutine[object, object, list[Check]]


async def verify(agent: Agent, report: Report) -> Json:
    """Measure everything and compare it with the declaration; a report as plain data.

    Raises:
        ChannelError: a VM did not take part; nothing is claimed then.
    """
    in_force = agent.in_force
    if in_force is None:
        raise ChannelError("nothing is up: no declaration is in force")
    async with AsyncExitStack() as sessions:
        done = 0
        members = in_force.plan.members

        async def log_in(member: Member) -> FileSubject:
            nonlocal done
            session = await sessions.enter_async_context(
                agent.session(member.user, Entrance(member.community), "verify")
            )
            done += 1
            report(Progress("log users in", done, len(members)))
            return _subject(in_force, member, session.vm)

        subjects = list(await asyncio.gather(*(log_in(member) for member in members)))
        files = await _each(
            "try files",
            [measure_files(in_force.infrastructure, s, agent.guests.channel(s.vm)) for s in subjects],
            report,
        )
        network = await _each("try connections", _network(agent, in_force), report)
    trust = await _each("look into VMs", [_trust(agent, vm) for vm in agent.wanted_vms()], report)
    checks = files + network + trust
    result = _report(subjects, checks)
    if not result["matches"]:
        result["bundle"] = str(await keep_evidence(agent, checks))
    return result


async def _each(step: str, work: Sequence[Measurement], report: Report) -> list[Check]:
    done = 0
    total = len(work)
    report(Progress(step, 0, total))

    async def one(task: Measurement) -> list[Check]:
        nonlocal done
        checks = await task
        done += 1
        report(Progress(step, done, total))
        return checks

    return [check for checks in await asyncio.gather(*(one(task) for task in work)) for check in checks]


def _subject(in_force: InForce, member: Member, vm: str) -> FileSubject:
    sources = []
    for name, share in in_force.infrastructure.shares.items():
        server = next(v for v in in_force.node_plan.vms if v.name == share.server)
        # A server without a leg in this VCN is tried at the address of another leg: it must not answer.
        leg = next((nic for nic in server.nics if nic.network == member.community), server.nics[0])
        if share.kind is ShareKind.HOMES:
            community = next(iter(share.access)).partition(":")[0]
            for user, declared in in_force.infrastructure.users.items():
                if community in declared.communities:
                    sources.append((f"{name}/{user}", f"{leg.address}:/{name}/{user}"))
        else:
            sources.append((name, f"{leg.address}:/{name}"))
    return FileSubject(member.user, member.community, vm, member.local_uid, USER_GROUP_GID, tuple(sources))


def _network(agent: Agent, in_force: InForce) -> list[Measurement]:
    running = agent.wanted_vms()
    endpoints = [Endpoint(vm.name, _place(vm), nic.network, str(nic.address)) for vm in running for nic in vm.nics]
    flows = {resolve_service(in_force.infrastructure, flow.service).port for flow in in_force.infrastructure.flows}
    ports = sorted(flows.union(ALWAYS_TRIED))
    work = []
    for vm in running:
        source = next(e for e in endpoints if e.vm == vm.name)
        targets = [e for e in endpoints if e.vm != vm.name]
        channel = agent.guests.channel(vm.name)
        work.append(measure_reach(in_force.infrastructure, source, targets, ports, channel))
    return work


async def _trust(agent: Agent, vm: Vm) -> list[Check]:
    """Whether a VM is the one that was started. Not looked at in time is not known, hence no match."""
    await agent.introspection.look(vm.name)
    verdict = agent.introspection.verdict(vm.name)
    known = verdict in (Verdict.TRUSTED, Verdict.COMPROMISED)
    measured = yes_if(verdict is Verdict.TRUSTED) if known else Measured.UNKNOWN
    return [Check(Kind.TRUST, vm.name, "trusted", "is", Measured.YES, measured)]


def _place(vm: Vm) -> Place:
    return Place(
        community=vm.community,
        file_server=vm.name if vm.kind is VmKind.FS else None,
        firewall=vm.kind is VmKind.FW,
    )


def _report(subjects: list[FileSubject], checks: list[Check]) -> Json:
    mismatches = [check for check in checks if not check.matches]
    files = [check for check in checks if check.kind is Kind.FILES]
    network = [check for check in checks if check.kind is Kind.NETWORK]
    shares = list(dict.fromkeys(check.target for check in files))
    targets = list(dict.fromkeys(check.target for check in network))
    sources = list(dict.fromkeys(check.subject for check in network))
    return {
        "matches": not mismatches,
        "checked": len(checks),
        "shares": shares,
        "targets": targets,
        "file_matrix": [
            {
                "user": f"{s.community}:{s.user}",
                "vm": s.vm,
                "cells": [_letters(files, f"{s.community}:{s.user}", share) for share in shares],
            }
            for s in subjects
        ],
        "network_matrix": [
            {"vm": source, "cells": [_open(network, source, target) for target in targets]} for source in sources
        ],
        "trust": [{"vm": c.subject, "trusted": c.measured.value} for c in checks if c.kind is Kind.TRUST],
        "checks": [check.as_json() for check in checks],
        "mismatches": [check.as_json() for check in mismatches],
    }


def _letters(checks: list[Check], subject: str, share: str) -> str:
    """`r-w` style: one letter for each operation that worked."""
    found = {c.action: c.measured for c in checks if c.subject == subject and c.target == share}
    marks = {Measured.YES: None, Measured.NO: "-", Measured.UNKNOWN: "?"}
    return "".join(marks[found.get(op.value, Measured.UNKNOWN)] or op.value[0] for op in MEASURED_OPERATIONS)


def _open(checks: list[Check], source: str, target: str) -> str:
    found = [c for c in checks if c.subject == source and c.target == target]
    reached = [c.action for c in found if c.measured is Measured.YES]
    return ", ".join(reached) or ("-" if found else "")
