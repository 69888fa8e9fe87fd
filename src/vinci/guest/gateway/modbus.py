# SPDX-License-Identifier: GPL-2.0-or-later
"""Modbus/TCP: what a request asks for, whether the declaration has it, and which answer it has to get.

Sources: MODBUS Application Protocol 1.1b3 (functions, limits, exceptions), MODBUS Messaging on TCP/IP 1.0b (header).

A client sends one whole request and waits for its answer. Whatever else lies in the stream, half a request or two,
ends the connection: nothing is put together, so nothing can be put together differently from how the target would.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from .protocol import BadAnswerError, Delivery, Forward, Known, Reason, Refuse

MOST_BYTES = 260
"""A header of 7 bytes and a PDU of at most 253."""

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 0x01, 0x02, 0x03
BUSY, NO_PATH, NO_ANSWER = 0x06, 0x0A, 0x0B
_EXCEPTIONS = frozenset((0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x08, 0x0A, 0x0B))
_EXCEPTION = 0x80
REMEMBERED = 256
"""So many requests that passed are known at most: a client asks for the same few things again and again."""

_TRANSACTION = 2  # bytes, the first of each message
_HEAD = Struct(">HHBB")  # behind the transaction: protocol, length of what follows, unit, function
_READ = Struct(">HHBBHH")  # and address, quantity
_BLOCK = Struct(">HH")

READ_COILS, READ_INPUTS, READ_HOLDING, READ_INPUT = 1, 2, 3, 4
WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS, MASK_WRITE, READ_WRITE = 5, 6, 15, 16, 22, 23
FUNCTIONS = frozenset((1, 2, 3, 4, 5, 6, 15, 16, 22, 23))
"""Those that this gateway can read; no other passes, whatever is declared."""

_MOST_READ = {READ_COILS: 2000, READ_INPUTS: 2000, READ_HOLDING: 125, READ_INPUT: 125}
_BITS = (READ_COILS, READ_INPUTS)
_PDU = 7  # where the function code is

Ranges = tuple[tuple[int, int], ...]
"""(first, last) pairs."""


class _Passing(NamedTuple):
    """A request that passes, without its transaction, which is whatever the client says."""

    request: bytes
    """Written anew."""
    answer: bytes
    """How its answer begins."""
    length: int
    """Bytes of the whole answer."""
    failure: bytes
    """The exception in place of an answer, but for the code."""
    repeatable: bool


class _Refused(NamedTuple):
    """A request that does not pass, and the exception that says so; without one the connection ends."""

    reason: Reason
    code: int | None = None


Expected = tuple[bytes, _Passing]
"""The transaction that an answer has to have, and what it answers."""


class _Impossible(Exception):  # noqa: N818 (a verdict, not an error)
    """A request of a known function that no device could carry out."""


class ModbusGateway:
    """Passes these functions on these units and addresses; everything else gets a Modbus exception or ends."""

    most_bytes = MOST_BYTES
    answer_bytes = MOST_BYTES + 1
    keeps_connection = True
    varies = _TRANSACTION

    def __init__(self, functions: frozenset[int], units: Ranges, registers: Ranges) -> None:
        """Functions by their codes; units and registers as ranges."""
        self._functions = functions & FUNCTIONS
        self._units = frozenset(unit for first, last in units for unit in range(first, last + 1))
        self._registers = _merged(registers)
        self.known: dict[bytes, Known] = {}

    def request(self, untrusted: bytes) -> Forward | Refuse | None:
        """Judge one chunk of the stream, which has to be exactly one request. Never asks for more."""
        transaction, rest = untrusted[:_TRANSACTION], untrusted[_TRANSACTION:]
        judged = self._judge(rest)
        if isinstance(judged, _Refused):
            return _refuse(judged, untrusted)
        if judged.repeatable and judged.request == rest:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            self.known[rest] = judged.answer, judged.length
        return transaction + judged.request, (transaction, judged), judged.repeatable

    def _judge(self, untrusted: bytes) -> _Passing | _Refused:
        """The verdict on what follows the transaction, which it cannot depend on."""
        size = len(untrusted)
        if size < _HEAD.size:
            return _Refused(Reason.FRAGMENTED)
        protocol, length, unit, function = _HEAD.unpack_from(untrusted)
        if protocol != 0 or length < 2:
            return _Refused(Reason.MALFORMED)
        if length > MOST_BYTES - 6:
            return _Refused(Reason.OVERSIZED)
        if size != length + 4:
            return _Refused(Reason.FRAGMENTED if size < length + 4 else Reason.PIPELINED)
        if function not in self._functions:
            return _Refused(Reason.OPERATION, ILLEGAL_FUNCTION)
        if unit not in self._units:
            return _Refused(Reason.UNIT, NO_PATH)
        try:
            blocks, prefix, answer_length = _parse(function, untrusted[_PDU - _TRANSACTION :])
        except _Impossible:
            return _Refused(Reason.MALFORMED, ILLEGAL_VALUE)
        for address, quantity in blocks:
            if not self._has(address, quantity):
                return _Refused(Reason.PLACE, ILLEGAL_ADDRESS)
        answer = _HEAD.pack(0, answer_length + 1, unit, function) + prefix
        failure = _HEAD.pack(0, 3, unit, function | _EXCEPTION)
        if function in _MOST_READ:
            ((address, quantity),) = blocks
            anew = _READ.pack(0, 6, unit, function, address, quantity)
        else:
            anew = _HEAD.pack(0, length, unit, function) + untrusted[_HEAD.size :]
        return _Passing(anew, answer, answer_length + 7, failure, function in _MOST_READ)

    def is_whole(self, expected: Expected, untrusted: bytes) -> bool:
        """Transaction, unit, function and length are those that the request asks for."""
        transaction, asked = expected
        return len(untrusted) == asked.length and untrusted.startswith(transaction + asked.answer)

    def answer(self, expected: Expected, untrusted: bytes, ended: bool) -> Delivery:
        """Judge an answer in parts, or one that is none."""
        if self.is_whole(expected, untrusted):
            return Delivery(untrusted, b"", True)
        transaction, asked = expected
        size, prefix, failure = len(untrusted), transaction + asked.answer, transaction + asked.failure
        if size == len(failure) + 1 and untrusted.startswith(failure) and untrusted[-1] in _EXCEPTIONS:
            return Delivery(untrusted, b"", True)
        begins = prefix.startswith(untrusted[: len(prefix)]) or failure.startswith(untrusted)
        if ended or size >= asked.length or not begins:
            raise BadAnswerError(_hexadecimal(untrusted))
        return Delivery(b"", untrusted, False)

    def failure(self, expected: Expected, reason: Reason) -> bytes:
        """The exception: busy where the rate is used up, otherwise that the target did not answer."""
        transaction, asked = expected
        return transaction + asked.failure + bytes((BUSY if reason is Reason.RATE else NO_ANSWER,))

    def _has(self, address: int, quantity: int) -> bool:
        last = address + quantity - 1
        return any(first <= address and last <= end for first, end in self._registers)


def _parse(function: int, pdu: bytes) -> tuple[tuple[tuple[int, int], ...], bytes, int]:
    """Blocks of addresses that a PDU touches, how its answer goes on after the function, how long the answer's PDU is.

    Raises _Impossible when lengths, quantities and values do not fit each other.
    """
    if len(pdu) < 5:
        raise _Impossible
    address, quantity = _BLOCK.unpack_from(pdu, 1)
    if function in _MOST_READ:
        _insist(len(pdu) == 5 and 1 <= quantity <= _MOST_READ[function])
        count = (quantity + 7) // 8 if function in _BITS else 2 * quantity
        return ((address, quantity),), bytes((count,)), 2 + count
    if function in (WRITE_COIL, WRITE_REGISTER):
        _insist(len(pdu) == 5 and (function == WRITE_REGISTER or quantity in (0x0000, 0xFF00)))
        return ((address, 1),), pdu[1:], 5
    if function == MASK_WRITE:
        _insist(len(pdu) == 7)
        return ((address, 1),), pdu[1:], 7
    if function == READ_WRITE:
        _insist(len(pdu) >= 10 and 1 <= quantity <= 125)
        written = _written(pdu, 5, most=121, bits=False)
        return ((address, quantity), written), bytes((2 * quantity,)), 2 + 2 * quantity
    bits = function == WRITE_COILS
    return (_written(pdu, 1, most=1968 if bits else 123, bits=bits),), pdu[1:5], 5


def _written(pdu: bytes, start: int, most: int, bits: bool) -> tuple[int, int]:
    """The block of a PDU that ends with address, quantity, count of bytes and values."""
    _insist(len(pdu) > start + 4)
    address, quantity = _BLOCK.unpack_from(pdu, start)
    count = (quantity + 7) // 8 if bits else 2 * quantity
    _insist(1 <= quantity <= most and pdu[start + 4] == count and len(pdu) == start + 5 + count)
    return address, quantity


def _insist(condition: bool) -> None:
    if not condition:
        raise _Impossible


def _merged(ranges: Ranges) -> Ranges:
    """Ranges without overlaps or touching ends: a block of registers lies in one of them or it is not declared."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def _refuse(refused: _Refused, untrusted: bytes) -> Refuse:
    if refused.code is None:
        return Refuse(refused.reason, _hexadecimal(untrusted), b"", True)
    unit, function = untrusted[_PDU - 1], untrusted[_PDU]
    what = f"unit {unit} function {function}"
    if len(untrusted) >= _TRANSACTION + _READ.size:
        what += " address {} quantity {}".format(*_BLOCK.unpack_from(untrusted, _PDU + 1))
    failure = _HEAD.pack(0, 3, unit, function | _EXCEPTION)
    return Refuse(refused.reason, what, untrusted[:_TRANSACTION] + failure + bytes((refused.code,)), False)


def _hexadecimal(untrusted: bytes) -> str:
    return f"{len(untrusted)} bytes: {untrusted[:16].hex()}"
