# SPDX-License-Identifier: GPL-2.0-or-later
"""A second reading of Modbus, by pymodbus: what a device would make of the bytes that a gateway passes on."""

from __future__ import annotations

from dataclasses import dataclass

from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU

_REQUESTS = DecodePDU(True)
_FRAMES = FramerSocket(_REQUESTS)
READS = frozenset((1, 2, 3, 4))


@dataclass(frozen=True)
class Declared:
    """What a flow lets through, as plain sets."""

    functions: frozenset[int]
    units: frozenset[int]
    registers: frozenset[int]


def fault(passed: bytes, declared: Declared) -> str | None:
    """Why these bytes should not have been passed on; None when they are one declared reading request."""
    used, unit, _transaction, pdu = _FRAMES.decode(passed)
    if used != len(passed):
        return f"not one frame: {used} of {len(passed)} bytes"
    request = _REQUESTS.decode(pdu)
    if request is None:
        return "no request"
    if request.function_code not in READS & declared.functions:
        return f"function {request.function_code}"
    if unit not in declared.units:
        return f"unit {unit}"
    if request.encode() != pdu[1:]:
        return "more than the request"
    if not declared.registers.issuperset(range(request.address, request.address + request.count)):
        return f"registers {request.address}, {request.count} of them"
    return None
