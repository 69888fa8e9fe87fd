# SPDX-License-Identifier: GPL-2.0-or-later
"""What the gateways of an FW-VM let through, read back from the table that they are given.

A second opinion, as `vinci.policy.readback_rules` is: it shares nothing with what writes the table, or with the
gateways that read it. A word that is not known is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from vinci.model.inspection import HttpInspection, Inspection, ModbusFunction
from vinci.policy.readback_files import ReadbackError

_CODES = {
    **{ModbusFunction.READ_COILS: 1, ModbusFunction.READ_DISCRETE_INPUTS: 2},
    **{ModbusFunction.READ_HOLDING_REGISTERS: 3, ModbusFunction.READ_INPUT_REGISTERS: 4},
    **{ModbusFunction.WRITE_COIL: 5, ModbusFunction.WRITE_REGISTER: 6},
    **{ModbusFunction.WRITE_COILS: 0x0F, ModbusFunction.WRITE_REGISTERS: 0x10},
    **{ModbusFunction.MASK_WRITE_REGISTER: 0x16, ModbusFunction.READ_WRITE_REGISTERS: 0x17},
}
"""MODBUS Application Protocol 1.1b3, section 6."""
_COMMON = frozenset({"flow", "sources", "targets", "port", "rate"})
_OWN = {
    "modbus": frozenset({"functions", "units", "registers"}),
    "http": frozenset({"methods", "paths", "max_body_bytes"}),
}

Passing = dict[str, frozenset[object]]
"""What passes, by the key of `inspection:` that says so."""


@dataclass(frozen=True, slots=True)
class ReadGateway:
    """One line of the table."""

    protocol: str
    sources: frozenset[IPv4Address]
    targets: frozenset[IPv4Address]
    port: int
    passing: Passing


@dataclass(frozen=True, slots=True)
class Way:
    """A connection that a gateway has to serve."""

    source: IPv4Address
    target: IPv4Address
    port: int


def read_gateways(table: str) -> dict[int, ReadGateway]:
    """The gateways of a table by number. Raises ReadbackError."""
    found: dict[int, ReadGateway] = {}
    try:
        for line in table.splitlines():
            number, protocol, *words = line.split(" ")
            pairs = dict(word.split("=", 1) for word in words)
            if pairs.keys() != _COMMON | _OWN[protocol] or len(pairs) != len(words) or int(number) in found:
                raise ReadbackError(f"gateway {number}: {line}")
            own = {key: pairs[key] for key in _OWN[protocol]}
            found[int(number)] = ReadGateway(
                protocol=protocol,
                sources=frozenset(map(IPv4Address, pairs["sources"].split(","))),
                targets=frozenset(map(IPv4Address, pairs["targets"].split(","))),
                port=int(pairs["port"]),
                passing={"rate": frozenset({int(pairs["rate"])}), **{key: _values(key, own[key]) for key in own}},
            )
    except (KeyError, ValueError) as error:
        raise ReadbackError(f"a table of gateways that cannot be read: {error!r}") from None
    return found


def differences(gateway: ReadGateway, declared: Inspection, way: Way) -> Iterator[str]:
    """What a gateway does otherwise than a flow's inspection says."""
    if gateway.protocol != declared.gateway:
        yield f"the gateway reads {gateway.protocol}, declared is {declared.gateway}"
        return
    if way.source not in gateway.sources or way.target not in gateway.targets or way.port != gateway.port:
        yield f"the gateway does not serve {way.source} -> {way.target} tcp/{way.port}"
    for key, values in _declared(declared).items():
        if gateway.passing[key] - values:
            yield f"the gateway lets {key} through that are not declared: {_some(gateway.passing[key] - values)}"
        if values - gateway.passing[key]:
            yield f"the gateway refuses declared {key}: {_some(values - gateway.passing[key])}"


def _values(key: str, text: str) -> frozenset[object]:
    if key in ("methods", "paths"):
        return frozenset(text.split(","))
    return frozenset(number for part in text.split(",") for number in _range(part))


def _declared(inspection: Inspection) -> Passing:
    if isinstance(inspection, HttpInspection):
        return {
            "rate": frozenset({inspection.rate}),
            "methods": frozenset(str(method) for method in inspection.methods),
            "paths": frozenset(inspection.paths),
            "max_body_bytes": frozenset({inspection.max_body_bytes}),
        }
    return {
        "rate": frozenset({inspection.rate}),
        "functions": frozenset(_CODES[function] for function in inspection.functions),
        "units": frozenset(number for part in inspection.units for number in _range(part)),
        "registers": frozenset(number for part in inspection.registers for number in _range(part)),
    }


def _range(text: str) -> range:
    first, *last = text.split("-")
    return range(int(first), int(last[0] if last else first) + 1)


def _some(values: frozenset[object]) -> str:
    shown = sorted(map(str, values))
    return ", ".join(shown[:5]) + (", …" if len(shown) > 5 else "")
