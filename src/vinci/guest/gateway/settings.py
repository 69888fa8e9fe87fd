# SPDX-License-Identifier: GPL-2.0-or-later
"""One gateway's settings, read from its line of the table that the A-VM gives the FW-VM (`vinci.plan.gateway_table`).

20000 modbus flow=0 sources=10.30.3.10 targets=10.30.2.10 port=502 rate=20 functions=3 units=1 registers=0-99
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from .http import HttpGateway
from .modbus import ModbusGateway, Ranges
from .protocol import Gateway


class Settings(NamedTuple):
    """What one gateway does. `number` is its TCP port and its UID."""

    number: int
    flow: int
    sources: frozenset[str]
    targets: frozenset[str]
    port: int
    rate: int
    gateway: Gateway


def _modbus(words: Mapping[str, str]) -> Gateway:
    functions = frozenset(int(code) for code in words["functions"].split(","))
    return ModbusGateway(functions, _ranges(words["units"]), _ranges(words["registers"]))


def _http(words: Mapping[str, str]) -> Gateway:
    methods, paths = words["methods"].split(","), words["paths"].split(",")
    return HttpGateway(frozenset(methods), tuple(paths), int(words["max_body_bytes"]))


PROTOCOLS: Mapping[str, Callable[[Mapping[str, str]], Gateway]] = {"modbus": _modbus, "http": _http}


def read_settings(line: str) -> Settings:
    """Read one line of the table. Raises ValueError or KeyError when it is none."""
    number, protocol, *pairs = line.split()
    words = dict(pair.split("=", 1) for pair in pairs)
    return Settings(
        number=int(number),
        flow=int(words["flow"]),
        sources=frozenset(words["sources"].split(",")),
        targets=frozenset(words["targets"].split(",")),
        port=int(words["port"]),
        rate=int(words["rate"]),
        gateway=PROTOCOLS[protocol](words),
    )


def _ranges(text: str) -> Ranges:
    pairs = (part.partition("-") for part in text.split(","))
    return tuple((int(first), int(last or first)) for first, _, last in pairs)
