# SPDX-License-Identifier: GPL-2.0-or-later
"""The table from which an FW-VM runs its gateways: a line each. `vinci.guest.gateway.settings` reads it there."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from vinci.model.inspection import HttpInspection, ModbusInspection, numbers
from vinci.plan.types import Firewall, FlowRule, PlannedGateway


def gateway_table(firewall: Firewall) -> str:
    """One line per inspected flow into the FW-VM's community: number, protocol, and what passes as `key=value`."""
    return "".join(_line(flow, flow.gateway) for flow in firewall.inbound if flow.gateway is not None)


def _line(flow: FlowRule, gateway: PlannedGateway) -> str:
    inspection = gateway.inspection
    words = {
        "flow": str(gateway.flow),
        "sources": _addresses(flow.source_addresses),
        "targets": _addresses(flow.to_addresses),
        "port": str(flow.port),
        "rate": str(inspection.rate),
        **(_modbus(inspection) if isinstance(inspection, ModbusInspection) else _http(inspection)),
    }
    pairs = " ".join(f"{key}={value}" for key, value in words.items())
    return f"{gateway.number} {inspection.gateway} {pairs}\n"


def _modbus(inspection: ModbusInspection) -> dict[str, str]:
    return {
        "functions": ",".join(str(code) for code in sorted({function.code for function in inspection.functions})),
        "units": _ranges(inspection.units),
        "registers": _ranges(inspection.registers),
    }


def _http(inspection: HttpInspection) -> dict[str, str]:
    return {
        "methods": ",".join(method.value for method in inspection.methods),
        "paths": ",".join(inspection.paths),
        "max_body_bytes": str(inspection.max_body_bytes),
    }


def _addresses(addresses: Iterable[IPv4Address]) -> str:
    return ",".join(str(address) for address in addresses)


def _ranges(ranges: tuple[str, ...]) -> str:
    return ",".join(f"{first}-{last}" for first, last in numbers(ranges))
