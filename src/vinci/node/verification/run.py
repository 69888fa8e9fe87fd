# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole verification: open sessions, measure files and network, compare, report."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vinci.introspect.findings import Verdict
from vinci.model.infrastructure import Infrastructure, Operation, ShareKind
from vinci.model.machines import app_vm_names, firewall_name, members_of
from vinci.model.services import resolve_service
from vinci.node.authenticate import DeniedError
from vinci.node.channel import Channel, ChannelError
from vinci.node.reconcile import Progress, Report
from vinci.node.verification.checks import Check, Kind, Measured, yes_if
from vinci.node.verification.evidence import keep_evidence
from vinci.node.verification.files import FileSubject, measure_files
from vinci.node.verification.network import ALWAYS_TRIED, Endpoint, measure_all, reach_checks
from vinci.plan.accounts import USER_GROUP_GID
from vinci.plan.types import Vm
from vinci.policy.expected import MEASURED_OPERATIONS, Place
from vinci.policy.login import Entrance

if TYPE_CHECKING:
    from vinci.node.agent import Agent
    from vinci.node.in_force import InForce

Json = dict[str, object]
NOWHERE = "127.0.0.1"
UNDECLARED = Place(None, None, False)
"""A VM that the model does not ask for may reach nothing, and nothing may reach it."""
Work = Coroutine[object, object, list[Check]]


async def verify(agent: Agent, report: Report) -> Json:
    """Measure everything and compare it with the declaration; a report as plain data.

    What a VM does not take part in is not known, and hence no match.

    Raises:
        ChannelError: nothing is up.
    """
    async with agent.verifying:  # two at once would take each other's listeners in the VMs for what listens there
        in_force = agent.in_force
        if in_force is None:
            raise ChannelError("nothing is up: no declaration is in force")
        return await _verify(agent, in_force, report)


async def _verify(agent: Agent, in_force: InForce, report: Report) -> Json:
    declared = members_of(in_force.infrastructure)
    members = [(user, community) for community, users in declared.items() for user in users]
    async with AsyncExitStack() as sessions:
        done = 0

        async def log_in(user: str, community: str) -> _Entered:
            nonlocal done
            try:
                session = await sessions.enter_async_context(agent.session(user, Entrance(community), "verify"))
                entered = _Entered(_subject(in_force, user, community, session.vm), agent.guests.channel(session.vm))
            except (ChannelError, DeniedError) as error:
                entered = _Entered(_subject(in_force, user, community, ""), None, f"{user} cannot log in: {error}")
            done += 1
            report(Progress("log users in", done, len(members)))
            return entered

        entered = list(await asyncio.gather(*(log_in(*member) for member in members)))
        files = await _each(
            "try files",
            [measure_files(in_force.infrastructure, each.subject, each.channel, each.reason) for each in entered],
            report,
        )
        machines, network = await _machines(agent, in_force), await _network(agent, in_force, report)
    trust = await _each("look into VMs", [_trust(agent, vm) for vm in agent.wanted_vms()], report)
    checks = machines + files + network + trust
    result = _report([each.subject for each in entered], checks)
    if not result["matches"]:
        result["bundle"] = str(await keep_evidence(agent, checks))
    return result


@dataclass(frozen=True, slots=True)
class _Entered:
    """A user in a VM, or why he is in none."""

    subject: FileSubject
    channel: Channel | None
    reason: str = ""


async def _each(step: str, work: Sequence[Work], report: Report) -> list[Check]:
    done = 0
    total = len(work)
    report(Progress(step, 0, total))

    async def one(task: Work) -> list[Check]:
        nonlocal done
        checks = await task
        done += 1
        report(Progress(step, done, total))
        return checks

    return [check for checks in await asyncio.gather(*(one(task) for task in work)) for check in checks]


def _subject(in_force: InForce, user: str, community: str, vm: str) -> FileSubject:
    """Who is measured on what, by the model; only the addresses of servers are the plan's."""
    infrastructure = in_force.infrastructure
    membership = infrastructure.users[user].communities[community]
    uid = infrastructure.users[user].uid if membership.local_uid is None else membership.local_uid
    sources = []
    for name, share in infrastructure.shares.items():
        address = _address_of(in_force, share.server, community)
        if share.kind is ShareKind.HOMES:
            homes_of = next(iter(share.access)).partition(":")[0]
            for owner, declared in infrastructure.users.items():
                if homes_of in declared.communities:
                    sources.append((f"{name}/{owner}", f"{address}:/{name}/{owner}"))
        else:
            sources.append((name, f"{address}:/{name}"))
    return FileSubject(user, community, vm, uid, USER_GROUP_GID, tuple(sources))


def _address_of(in_force: InForce, server: str, community: str) -> str:
    """Where a file server is tried from a community.

    One without a leg in this VCN is tried at the address of another leg, one that is not there at all at a place that
    is nobody's: neither may answer.
    """
    legs = next((vm.nics for vm in in_force.node_plan.vms if vm.name == server), ())
    own = next((nic for nic in legs if nic.network == community), legs[0] if legs else None)
    return NOWHERE if own is None else str(own.address)


def declared_places(infrastructure: Infrastructure) -> dict[str, Place]:
    """Every VM that the model asks for, and what it is there; the plan is not asked."""
    places = {name: Place(None, name, False) for name in infrastructure.file_servers}
    members = members_of(infrastructure)
    for name, community in infrastructure.communities.items():
        places[firewall_name(name)] = Place(name, None, True)
        places |= {vm: Place(name, None, False) for vm, _user in app_vm_names(name, community, members[name])}
    return places


async def _machines(agent: Agent, in_force: InForce) -> list[Check]:
    """Whether every VM that the model asks for is one that answers, and no other runs."""
    declared, wanted = declared_places(in_force.infrastructure), {vm.name for vm in agent.wanted_vms()}
    running = {name for name in wanted if name in agent.reachable} | ((await agent.running()).keys() - wanted)
    return [
        Check(Kind.MACHINES, vm, "a VM of the node", "is", yes_if(vm in declared), yes_if(vm in running))
        for vm in sorted(declared.keys() | running)
    ]


async def _network(agent: Agent, in_force: InForce, report: Report) -> list[Check]:
    running = agent.wanted_vms()
    places = declared_places(in_force.infrastructure)
    endpoints = [
        Endpoint(vm.name, places.get(vm.name, UNDECLARED), nic.network, str(nic.address))
        for vm in running
        for nic in vm.nics
    ]
    services = [
        *(resolve_service(in_force.infrastructure, flow.service) for flow in in_force.infrastructure.flows),
        *in_force.infrastructure.services.values(),
    ]
    ports = {
        protocol: sorted({service.port for service in services if service.protocol is protocol}.union(always))
        for protocol, always in ALWAYS_TRIED.items()
    }
    done = 0

    def tried() -> None:
        nonlocal done
        done += 1
        report(Progress("try connections", done, len(running)))

    report(Progress("try connections", 0, len(running)))
    measured = await measure_all({vm.name: agent.guests.channel(vm.name) for vm in running}, endpoints, ports, tried)
    checks = []
    for vm in running:
        own = [each for each in endpoints if each.vm == vm.name]
        others = [each for each in endpoints if each.vm != vm.name]
        checks += reach_checks(in_force.infrastructure, own, others, ports, measured)
    return checks


async def _trust(agent: Agent, vm: Vm) -> list[Check]:
    """Whether a VM is the one that was started. Not looked at in time is not known, hence no match."""
    await agent.introspection.look(vm.name)
    verdict = agent.introspection.verdict(vm.name)
    known = verdict in (Verdict.TRUSTED, Verdict.COMPROMISED)
    measured = yes_if(verdict is Verdict.TRUSTED) if known else Measured.UNKNOWN
    return [Check(Kind.TRUST, vm.name, "trusted", "is", Measured.YES, measured)]


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
    """`ra--` style: one letter for each operation that worked."""
    found = {c.action: c.measured for c in checks if c.subject == subject and c.target == share}
    marks = {Measured.YES: None, Measured.NO: "-", Measured.UNKNOWN: "?"}
    letters = {**{op: op.value[0] for op in MEASURED_OPERATIONS}, Operation.EXECUTE: "x"}
    return "".join(marks[found.get(op.value, Measured.UNKNOWN)] or letters[op] for op in MEASURED_OPERATIONS)


def _open(checks: list[Check], source: str, target: str) -> str:
    found = [c for c in checks if c.subject == source and c.target == target]
    reached = [c.action for c in found if c.measured is Measured.YES]
    unknown = any(c.measured is Measured.UNKNOWN for c in found)
    return ", ".join([*reached, *(["?"] if unknown else [])]) or ("-" if found else "")
