# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of flows and services. Whether flows leak is the proof's business (`vinci.policy.flows`)."""

from __future__ import annotations

from collections.abc import Iterator

from vinci.model.checks.facts import Facts, Finding, choice, error, is_reason, no_reason, warning
from vinci.model.infrastructure import Direction, Flow, Protocol, Service
from vinci.model.inspection import ModbusInspection, numbers
from vinci.model.problems import ModelPath
from vinci.model.services import WELL_KNOWN, ServiceError, resolve_service

MAX_UNIT = 255
MAX_REGISTER = 65_535
DHCP_PORTS = (67, 68)


def check_flows(facts: Facts) -> Iterator[Finding]:
    """Services that exist, flows between known communities, with reasons where the labels are against them."""
    for name, service in facts.infrastructure.services.items():
        known = WELL_KNOWN.get(name)
        if known is not None and known != service:
            what = f'"{name}" is a well-known service, {known.protocol}/{known.port}'
            yield error(("services", name), what, "give yours another name")
    first: dict[tuple[str, str, Service], int] = {}
    for number, flow in facts.flows():
        path: ModelPath = ("flows", number)
        yield from facts.unknown("communities", flow.source, (*path, "from"), "community")
        yield from facts.unknown("communities", flow.to, (*path, "to"), "community")
        if flow.source == flow.to:
            right = "`app_vms: {peers: all}` lets a community's VMs reach each other"
            yield error((*path, "to"), f"this flow leads from {flow.source} to itself", right)
        try:
            service = resolve_service(facts.infrastructure, flow.service)
        except ServiceError as fault:
            yield from _unknown_service(facts, flow, str(fault), (*path, "service"))
            continue
        earlier = first.setdefault((flow.source, flow.to, service), number)
        if earlier != number:
            what = f"flow {earlier + 1} is the same: {flow.source} to {flow.to}, {service.protocol}/{service.port}"
            yield error(path, what, "keep one of them")
        yield from _transport(flow, service, path)
        yield from _labels(facts, flow, path)


def _unknown_service(facts: Facts, flow: Flow, fault: str, path: ModelPath) -> Iterator[Finding]:
    name = str(flow.service)
    if "/" in name or not facts.knows("services", name):
        known = [*facts.infrastructure.services, *WELL_KNOWN]
        yield error(
            path, fault, "use 1 to 65535" if "/" in name else f"{choice(name, known, 'services')}; or write tcp/8080"
        )


def _transport(flow: Flow, service: Service, path: ModelPath) -> Iterator[Finding]:
    one_way = flow.direction is Direction.ONE_WAY
    if one_way and service.protocol is not Protocol.UDP:
        yield error((*path, "direction"), "a TCP connection cannot be one-way: it needs answers", "use a udp service")
    if service.protocol is Protocol.UDP and service.port in DHCP_PORTS:
        what = f"udp/{service.port} is DHCP's: no bridge lets it pass, for addresses are assigned by the plan"
        yield error((*path, "service"), what, "use another port")
    if flow.inspection is None:
        return
    if service.protocol is not Protocol.TCP:
        yield error((*path, "inspection"), "gateways inspect TCP connections", "use a tcp service, or no inspection")
    if flow.inspection.gateway == "http" and service.port == WELL_KNOWN["https"].port:
        what = "the http gateway cannot look into https"
        yield error((*path, "inspection"), what, "use an http service behind the gateway")
    if isinstance(flow.inspection, ModbusInspection):
        yield from _ranges(flow.inspection.units, MAX_UNIT, (*path, "inspection", "units"))
        yield from _ranges(flow.inspection.registers, MAX_REGISTER, (*path, "inspection", "registers"))


def _ranges(ranges: tuple[str, ...], most: int, path: ModelPath) -> Iterator[Finding]:
    for number, text in enumerate(ranges):
        first, last = numbers((text,))[0]
        if last > most:
            yield error((*path, number), f"{text} goes beyond {most}", f"numbers are 0 to {most}")
        elif first > last:
            yield error((*path, number), f"{text} goes backwards", f"write {last}-{first}")


def _labels(facts: Facts, flow: Flow, path: ModelPath) -> Iterator[Finding]:
    source, to = facts.labels.get(flow.source), facts.labels.get(flow.to)
    if source is None or to is None:
        return
    downward = not to.dominates(source) or (flow.direction is Direction.BOTH and not source.dominates(to))
    leaks = downward and not flow.trusted  # the proof shows the whole way, and says what to add
    if not source.dominates(to) and not flow.upward and not leaks:
        order = "a lower" if to.dominates(source) else "another, incomparable"
        yield error(
            path,
            f"{flow.source} ({source.text}) has {order} label than {flow.to} ({to.text}): no connections",
            "add `upward: true` and `reason: …`, or remove the flow",
        )
    if (flow.upward or flow.trusted) and not is_reason(flow.reason):
        key = "upward" if flow.upward else "trusted"
        yield no_reason(flow.reason, path, key, f"this flow is declared {key}")
    if flow.upward and source.dominates(to):
        what = f"{flow.source} dominates {flow.to}: the flow does not lead upward"
        yield warning((*path, "upward"), what, "remove `upward`")
    if flow.trusted and not downward:
        yield warning((*path, "trusted"), "this flow passes nothing down: nothing to trust", "remove `trusted`")
