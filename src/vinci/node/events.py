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
from vinci.node.channel import ChannelError
from vinci.node.denials import Denials
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
    watch = Watch(agent)
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
                _record_drop(watch, record)
        except Exception as error:  # one broken record must not end the records
            _LOG.exception("a record of a dropped packet cannot be read")
            agent.audit.record(
                Event.OPERATION_FAILED, Severity.ERROR, f"records of dropped packets were lost: {error!r}"
            )
        finally:
            log.close()
        await asyncio.sleep(RETRY_SECONDS)


class Watch:
    """What one watcher needs to record denials: the budgets of its sources, and the names of the VMs in force."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.denials = Denials(agent.audit)
        self._plan: NodePlan | None = None
        self._by_address: dict[str, str] = {}
        self._by_tap: dict[str, str] = {}

    def vm_with(self, address: str) -> str | None:
        """The VM that has an address."""
        self._use_plan()
        return self._by_address.get(address)

    def vm_at(self, tap: str) -> str | None:
        """The VM at a port of a bridge."""
        self._use_plan()
        return self._by_tap.get(tap)

    def _use_plan(self) -> None:
        # Asked for each denial, also for those of a flood: a plan of a thousand VMs is read once.
        plan = self.agent.in_force.node_plan if self.agent.in_force else None
        if plan is not self._plan:
            self._plan = plan
            vms = plan.vms if plan is not None else ()
            self._by_address = {str(nic.address): vm.name for vm in vms for nic in vm.nics}
            self._by_tap = {nic.tap: vm.name for vm in vms for nic in vm.nics}


def _record_drop(watch: Watch, record: DroppedFrame | LostRecords) -> None:
    if isinstance(record, LostRecords):
        number = "some" if record.number is None else str(record.number)
        lost = f"{number} records of dropped packets were lost"
        watch.denials.record(("lost",), "the bridges", Event.PACKET_DROPPED, Severity.WARNING, lost)
        return
    vm = watch.vm_at(record.port)
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
    watch.denials.record(
        (record.port, record.reason.value),
        f"{vm or record.port} ({record.reason})",
        Event.PACKET_DROPPED,
        Severity.WARNING,
        f"a packet of {vm or record.port} was dropped: {record.reason} ({claim.strip() or 'no claim'})",
        vm=vm,
        port=record.port,
        reason=record.reason.value,
        claimed_source=str(record.source) if record.source else None,
        claimed_target=str(record.to) if record.to else None,
    )


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
    agent: Agent, vm: str, lines: Callable[[], AsyncIterator[str]], record: Callable[[Watch, str, str], None]
) -> None:
    watch = Watch(agent)
    while True:
        try:
            async for line in lines():
                record(watch, vm, line)
        except ChannelError:
            pass  # reported by the reconcile loop; here only wait for it to come back
        await asyncio.sleep(RETRY_SECONDS)


_NOBODY = "unknown addresses"
"""Stands in budgets for all addresses that no VM has: there are as many sources as VMs, whatever a guest invents."""


def _record_file_denial(watch: Watch, server: str, untrusted_line: str) -> None:
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
    vm = watch.vm_with(str(fields.get("address", "")))
    whose = f"{vm or _NOBODY} at {server}"
    watch.denials.within((server, vm or _NOBODY), whose, partial(_write_file_denial, watch.agent, server, vm, fields))


def _write_file_denial(agent: Agent, server: str, vm: str | None, fields: dict[str, Value]) -> None:
    user = _user_of(agent, vm, fields.get("uid"))
    fields["server"] = server
    who = user or f"UID {fields.get('uid', '?')}"
    what = str(fields.get("permissions") or fields.get("operation", "a request")).lower()
    where = "/".join(str(fields[key]) for key in ("share", "name") if fields.get(key)) or "the server"
    message = f"{server} denied {who} at {vm or fields.get('address', '?')} {what} on {where}: {_why(fields)}"
    agent.audit.record(Event.FILE_DENIED, Severity.WARNING, message, vm=vm, user=user, **fields)


_FIREWALL_FIELDS = {"SRC": "claimed_source", "DST": "claimed_target", "PROTO": "protocol", "DPT": "target_port"}
"""Words of the kernel's log of a packet (net/netfilter/nf_log_syslog.c) and their names in the audit."""


def _record_firewall_denial(watch: Watch, firewall: str, untrusted_line: str) -> None:
    # What follows a bracket is the packet that an error of ICMP quotes.
    words = untrusted_line.partition("[")[0].split()[:64]
    if len(words) > 1 and words[0] == GATEWAY_PREFIX and words[1] in set(Reason):
        _record_request(watch, firewall, Reason(words[1]), untrusted_line)
    if len(words) < 2 or words[0] != LOG_PREFIX or words[1] not in set(FlowDenial):
        return
    pairs = dict(word.split("=", 1) for word in words[2:] if "=" in word)
    fields: dict[str, Value] = {name: pairs[word][:64] for word, name in _FIREWALL_FIELDS.items() if word in pairs}
    vm = watch.vm_with(str(fields.get("claimed_source", "")))
    to = fields.get("claimed_target", "?")
    service = f"{fields.get('protocol', '?')}/{fields.get('target_port', '-')}".lower()
    message = f"{firewall} let no {service} cross from {vm or fields.get('claimed_source', '?')} to {to}: {words[1]}"
    watch.denials.record(
        (firewall, vm or _NOBODY, Event.FLOW_DENIED),
        f"{vm or _NOBODY} at {firewall}",
        Event.FLOW_DENIED,
        Severity.WARNING,
        message,
        vm=vm,
        firewall=firewall,
        reason=words[1],
        **fields,
    )


_REQUEST = re.compile(
    r"[a-z-]+ [a-z-]+ flow=(\d{1,6}) source=([\d.]{1,15}) target=([\d.]{1,15}|-) lost=(\d{1,9}) what=(.{0,200})"
)
"""What `vinci.guest.gateway.bounds` writes."""


def _record_request(watch: Watch, firewall: str, reason: Reason, untrusted_line: str) -> None:
    """A request that a gateway did not let through: from whom, why, and the line of the file that says what passes."""
    untrusted = _REQUEST.match(untrusted_line)
    in_force = watch.agent.in_force
    if untrusted is None or in_force is None:
        return
    number, source, target, lost, what = untrusted.groups()
    flows = in_force.infrastructure.flows
    if int(number) >= len(flows) or flows[int(number)].inspection is None:
        return
    flow = flows[int(number)]
    vm = watch.vm_with(source)
    line = in_force.source.at(("flows", int(number), "inspection")).line
    to = watch.vm_with(target) or target
    message = (
        f"{firewall}'s gateway let no request of {vm or source} through to {to}: {reason} ({what or 'no request'})"
    )
    watch.denials.record(
        (firewall, vm or _NOBODY, Event.REQUEST_DENIED),
        f"{vm or _NOBODY} at the gateway of {firewall}",
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


def _user_of(agent: Agent, vm: str | None, uid: Value) -> str | None:
    """The user whom a UID means on a VM: local UIDs belong to the VM's community."""
    if agent.in_force is None or vm is None:
        return None
    community = next((v.community for v in agent.in_force.node_plan.vms if v.name == vm), None)
    members = agent.in_force.plan.members
    return next((m.user for m in members if m.community == community and m.local_uid == uid), None)
