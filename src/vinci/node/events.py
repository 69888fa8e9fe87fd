# SPDX-License-Identifier: GPL-2.0-or-later
"""Denials that others noticed, brought into the audit: packets dropped on the bridges, files denied by FS-VMs."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING

from vinci.guest.gateway.bounds import RECORD_PREFIX as GATEWAY_PREFIX
from vinci.guest.gateway.protocol import Reason
from vinci.node.audit import Event, Severity, Value
from vinci.node.budget import Budget
from vinci.node.channel import ChannelError
from vinci.node.packet_log import DroppedFrame, LostRecords, PacketLog
from vinci.plan.firewall_rules import LOG_PREFIX, FlowDenial
from vinci.plan.types import NodePlan
from vinci.store.sqlite import Store

if TYPE_CHECKING:
    from vinci.node.agent import Agent

_LOG = logging.getLogger(__name__)
RETRY_SECONDS = 2.0
LOG_RETRY_SECONDS = 30.0
_FILE_FIELDS = (
    *("address", "uid", "operation", "reason", "subject", "target", "share", "class", "permissions", "name"),
    *("inode", "version", "repeats", "lost"),
)
"""What the FS-VM's module tells of a denial (guest/kernel/events.c)."""


async def watch_packets(agent: Agent) -> None:
    """Record the frames that the bridges' rules dropped, for ever."""
    budget = Budget()
    while True:
        try:
            log = PacketLog()
        except OSError as error:
            agent.audit.record(
                Event.OPERATION_FAILED,
                Severity.ERROR,
                f"dropped packets cannot be recorded (they are dropped): {error}",
            )
            await asyncio.sleep(LOG_RETRY_SECONDS)
            continue
        try:
            async for record in log.records():
                source = record.port if isinstance(record, DroppedFrame) else None
                _within(agent, budget, source, partial(_record_drop, agent, record))
        except Exception as error:  # one broken record must not end the records
            _LOG.exception("a record of a dropped packet cannot be read")
            agent.audit.record(
                Event.OPERATION_FAILED, Severity.ERROR, f"records of dropped packets were lost: {error!r}"
            )
        finally:
            log.close()
        await asyncio.sleep(RETRY_SECONDS)


def _within(agent: Agent, budget: Budget, source: str | None, record: Callable[[], None]) -> None:
    """Record an event of `source` within its budget, and before it how many were left out when it was used up."""
    left_out = budget.admit(source, asyncio.get_running_loop().time())
    if left_out is None:
        return
    if left_out:
        whose = _vm_at(agent.in_force.node_plan if agent.in_force else None, source or "") or source or "unknown ports"
        agent.audit.record(
            Event.RECORDS_LEFT_OUT,
            Severity.WARNING,
            f"{left_out} more denials of {whose} came too fast to be recorded",
            source=source,
            number=left_out,
        )
    record()


def _record_drop(agent: Agent, record: DroppedFrame | LostRecords) -> None:
    if isinstance(record, LostRecords):
        number = "some" if record.number is None else str(record.number)
        agent.audit.record(Event.PACKET_DROPPED, Severity.WARNING, f"{number} records of dropped packets were lost")
        return
    vm = _vm_at(agent.in_force.node_plan if agent.in_force else None, record.port)
    claim = " ".join(
        f"{name} {value}"
        for name, value in (
            ("from", record.source),
            ("to", record.to),
            ("", record.protocol),
            ("port", record.to_port),
        )
        if value is not None
    )
    agent.audit.record(
        Event.PACKET_DROPPED,
        Severity.WARNING,
        f"a packet of {vm or record.port} was dropped: {record.reason} ({claim.strip() or 'no claim'})",
        vm=vm,
        port=record.port,
        reason=record.reason.value,
        claimed_source=str(record.source) if record.source else None,
        claimed_target=str(record.to) if record.to else None,
    )


def _vm_at(plan: NodePlan | None, tap: str) -> str | None:
    if plan is None:
        return None
    return next((vm.name for vm in plan.vms for nic in vm.nics if nic.tap == tap), None)


async def watch_file_server(agent: Agent, server: str) -> None:
    """Record each request that an FS-VM denied, for ever."""
    await _watch(agent, server, lambda: _lines(agent, server, "fs-events"), _record_file_denial)


async def watch_firewall(agent: Agent, firewall: str) -> None:
    """Record the packets that an FW-VM did not let cross, and the requests that its gateways did not, for ever."""
    place = _Place(agent.store, firewall)

    async def lines() -> AsyncIterator[str]:
        async for untrusted_line in _lines(agent, firewall, f"fw-events {place.now}"):
            untrusted_place, _, untrusted_event = untrusted_line.partition(" ")
            if _PLACE.fullmatch(untrusted_place):
                place.move(untrusted_place)
                yield untrusted_event

    try:
        await _watch(agent, firewall, lines, _record_firewall_denial)
    finally:
        place.save()


_PLACE = re.compile(r"[0-9a-f-]{36}:[0-9]{1,18}", re.ASCII)
"""Of a line of `fw-events`: the guest's boot, and the number of the record in its kernel's log."""
PLACE_SECONDS = 1.0
"""After an agent's sudden end, what was recorded in the last so many seconds may be recorded once more."""


class _Place:
    """How far the log of an FW-VM was recorded; the next agent goes on there."""

    def __init__(self, store: Store, firewall: str) -> None:
        self._store, self._fact = store, f"events of {firewall}"
        self._saving: asyncio.TimerHandle | None = None
        self.now = self._store.fact(self._fact) or ""

    def move(self, place: str) -> None:
        self.now = place
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(PLACE_SECONDS, self.save)

    def save(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
            try:
                self._store.set_fact(self._fact, self.now)
            except sqlite3.Error:
                _LOG.exception("how far events were recorded cannot be stored")


def _lines(agent: Agent, vm: str, command: str) -> AsyncIterator[str]:
    return agent.guests.channel(vm).lines(f"exec /usr/lib/vinci/{command}")


async def _watch(
    agent: Agent, vm: str, lines: Callable[[], AsyncIterator[str]], record: Callable[[Agent, str, str], None]
) -> None:
    budget = Budget()
    while True:
        try:
            async for line in lines():
                _within(agent, budget, vm, partial(record, agent, vm, line))
        except ChannelError:
            pass  # reported by the reconcile loop; here only wait for it to come back
        await asyncio.sleep(RETRY_SECONDS)


def _record_file_denial(agent: Agent, server: str, untrusted_line: str) -> None:
    try:
        untrusted = json.loads(untrusted_line)
    except (ValueError, RecursionError):
        return
    if not isinstance(untrusted, dict):
        return
    fields: dict[str, Value] = {}
    for name in _FILE_FIELDS:
        value = untrusted.get(name)
        if isinstance(value, str | int) and len(str(value)) <= 300:
            fields[name] = value
    vm = _vm_with(agent.in_force.node_plan if agent.in_force else None, str(fields.get("address", "")))
    user = _user_of(agent, vm, fields.get("uid"))
    fields["server"] = server
    who = user or f"UID {fields.get('uid', '?')}"
    what = str(fields.get("permissions") or fields.get("operation", "a request")).lower()
    where = "/".join(str(fields[key]) for key in ("share", "name") if fields.get(key)) or "the server"
    message = f"{server} denied {who} at {vm or fields.get('address', '?')} {what} on {where}: {_why(fields)}"
    agent.audit.record(Event.FILE_DENIED, Severity.WARNING, message, vm=vm, user=user, **fields)


_FIREWALL_FIELDS = {"SRC": "claimed_source", "DST": "claimed_target", "PROTO": "protocol", "DPT": "target_port"}
"""Words of the kernel's log of a packet (net/netfilter/nf_log_syslog.c) and their names in the audit."""


def _record_firewall_denial(agent: Agent, firewall: str, untrusted_line: str) -> None:
    # What follows a bracket is the packet that an error of ICMP quotes.
    words = untrusted_line.partition("[")[0].split()[:64]
    if len(words) > 1 and words[0] == GATEWAY_PREFIX and words[1] in set(Reason):
        _record_request(agent, firewall, Reason(words[1]), untrusted_line)
    if len(words) < 2 or words[0] != LOG_PREFIX or words[1] not in set(FlowDenial):
        return
    pairs = dict(word.split("=", 1) for word in words[2:] if "=" in word)
    fields: dict[str, Value] = {name: pairs[word][:64] for word, name in _FIREWALL_FIELDS.items() if word in pairs}
    vm = _vm_with(agent.in_force.node_plan if agent.in_force else None, str(fields.get("claimed_source", "")))
    to = fields.get("claimed_target", "?")
    service = f"{fields.get('protocol', '?')}/{fields.get('target_port', '-')}".lower()
    message = f"{firewall} let no {service} cross from {vm or fields.get('claimed_source', '?')} to {to}: {words[1]}"
    agent.audit.record(
        Event.FLOW_DENIED, Severity.WARNING, message, vm=vm, firewall=firewall, reason=words[1], **fields
    )


_REQUEST = re.compile(
    r"[a-z-]+ [a-z-]+ flow=(\d{1,6}) source=([\d.]{1,15}) target=([\d.]{1,15}|-) lost=(\d{1,9}) what=(.{0,200})"
)
"""What `vinci.guest.gateway.bounds` writes."""


def _record_request(agent: Agent, firewall: str, reason: Reason, untrusted_line: str) -> None:
    """A request that a gateway did not let through: from whom, why, and the line of the file that says what passes."""
    untrusted = _REQUEST.match(untrusted_line)
    if untrusted is None or agent.in_force is None:
        return
    number, source, target, lost, what = untrusted.groups()
    flows = agent.in_force.infrastructure.flows
    if int(number) >= len(flows) or flows[int(number)].inspection is None:
        return
    flow = flows[int(number)]
    vm = _vm_with(agent.in_force.node_plan, source)
    line = agent.in_force.source.at(("flows", int(number), "inspection")).line
    to = _vm_with(agent.in_force.node_plan, target) or target
    message = (
        f"{firewall}'s gateway let no request of {vm or source} through to {to}: {reason} ({what or 'no request'})"
    )
    agent.audit.record(
        Event.REQUEST_DENIED,
        Severity.WARNING,
        message,
        vm=vm,
        firewall=firewall,
        reason=reason.value,
        flow=f"{flow.source} -> {flow.to}",
        flow_number=int(number),
        line=line,
        claimed_source=source,
        claimed_target=target,
        request=what,
        lost=int(lost),
    )


def _why(fields: dict[str, Value]) -> str:
    if fields.get("subject") and fields.get("target"):
        return f"{fields['subject']} has no such right on {fields['target']}"
    return str(fields.get("reason", "not permitted"))


def _vm_with(plan: NodePlan | None, address: str) -> str | None:
    if plan is None:
        return None
    return next((vm.name for vm in plan.vms for nic in vm.nics if str(nic.address) == address), None)


def _user_of(agent: Agent, vm: str | None, uid: Value) -> str | None:
    """The user whom a UID means on a VM: local UIDs belong to the VM's community."""
    if agent.in_force is None or vm is None:
        return None
    community = next((v.community for v in agent.in_force.node_plan.vms if v.name == vm), None)
    members = agent.in_force.plan.members
    return next((m.user for m in members if m.community == community and m.local_uid == uid), None)
