# SPDX-License-Identifier: GPL-2.0-or-later
"""What a flow's gateway lets through: one typed declaration per protocol, told apart by `gateway`.

A new protocol is one class here and one gateway beside the FW-VM's others.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

Range = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$", coerce_numbers_to_str=True, description="a number or a range, `100-199`"
    ),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[0-9]{1,5}(-[0-9]{1,5})?$"}]}),
]


class Inspected(BaseModel):
    """Base of every gateway's declaration: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: Annotated[int, Field(strict=True, ge=1, le=100_000)] = Field(
        default=100, description="requests per second that pass; more are refused"
    )


class ModbusFunction(StrEnum):
    """Modbus functions by name (Modbus Application Protocol 1.1b3, section 6)."""

    READ_COILS = "read-coils"
    READ_DISCRETE_INPUTS = "read-discrete-inputs"
    READ_HOLDING_REGISTERS = "read-holding-registers"
    READ_INPUT_REGISTERS = "read-input-registers"
    WRITE_COIL = "write-coil"
    WRITE_REGISTER = "write-register"
    WRITE_COILS = "write-coils"
    WRITE_REGISTERS = "write-registers"
    MASK_WRITE_REGISTER = "mask-write-register"
    READ_WRITE_REGISTERS = "read-write-registers"

    @property
    def code(self) -> int:
        """The function code on the wire."""
        return _MODBUS_CODES[self]

    @property
    def writes(self) -> bool:
        """True when the function changes the device."""
        return self not in _MODBUS_READS


_MODBUS_CODES = {
    ModbusFunction.READ_COILS: 1,
    ModbusFunction.READ_DISCRETE_INPUTS: 2,
    ModbusFunction.READ_HOLDING_REGISTERS: 3,
    ModbusFunction.READ_INPUT_REGISTERS: 4,
    ModbusFunction.WRITE_COIL: 5,
    ModbusFunction.WRITE_REGISTER: 6,
    ModbusFunction.WRITE_COILS: 15,
    ModbusFunction.WRITE_REGISTERS: 16,
    ModbusFunction.MASK_WRITE_REGISTER: 22,
    ModbusFunction.READ_WRITE_REGISTERS: 23,
}
_MODBUS_READS = frozenset(function for function, code in _MODBUS_CODES.items() if code <= 4)


class ModbusInspection(Inspected):
    """Modbus/TCP: only these functions, on these units and addresses. Everything else gets a Modbus exception."""

    gateway: Literal["modbus"] = Field(description="this gateway")
    functions: Annotated[tuple[ModbusFunction, ...], Field(min_length=1, description="functions that pass")]
    units: Annotated[tuple[Range, ...], Field(min_length=1, description="unit identifiers, 0-255")]
    registers: Annotated[tuple[Range, ...], Field(min_length=1, description="registers or coils from 0, 0-65535")]


class HttpMethod(StrEnum):
    """Methods of HTTP (RFC 9110)."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"
    OPTIONS = "OPTIONS"

    @property
    def writes(self) -> bool:
        """True when the method may change what it is applied to."""
        return self not in (HttpMethod.GET, HttpMethod.HEAD, HttpMethod.OPTIONS)


HttpPath = Annotated[
    str,
    Field(pattern=r"^/[A-Za-z0-9._~/-]*\*?$", max_length=200, description="a path; `*` at the end stands for the rest"),
]


class HttpInspection(Inspected):
    """HTTP/1.1: only these methods and paths, bodies up to a size."""

    gateway: Literal["http"] = Field(description="this gateway")
    methods: Annotated[tuple[HttpMethod, ...], Field(min_length=1, description="methods that pass")]
    paths: Annotated[tuple[HttpPath, ...], Field(min_length=1, description="paths that pass")]
    max_body_bytes: Annotated[int, Field(strict=True, ge=0, le=67_108_864)] = Field(
        default=65_536, description="largest body of a request"
    )


Inspection = Annotated[ModbusInspection | HttpInspection, Field(discriminator="gateway")]


def numbers(ranges: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Ranges as (first, last) pairs, sorted: `("5", "10-12")` is `((5, 5), (10, 12))`."""
    pairs = []
    for text in ranges:
        first, _, last = text.partition("-")
        pairs.append((int(first), int(last or first)))
    return tuple(sorted(pairs))
