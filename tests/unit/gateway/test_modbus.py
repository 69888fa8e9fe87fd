# SPDX-License-Identifier: GPL-2.0-or-later
"""The Modbus gateway's judgement, against pymodbus's own reading and its own encoders."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import Declared, fault
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    WriteMultipleCoilsRequest,
    WriteSingleCoilRequest,
)
from pymodbus.pdu.register_message import (
    MaskWriteRegisterRequest,
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    ReadWriteMultipleRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)
from verdicts import passes

from vinci.guest.gateway.modbus import FUNCTIONS, MOST_BYTES, REMEMBERED, ModbusGateway
from vinci.guest.gateway.protocol import BadAnswerError, Reason, Refuse

UNITS, REGISTERS = ((1, 2),), ((0, 99), (1000, 1049))
READS = frozenset((3, 4))
DECLARED = Declared(READS, frozenset((1, 2)), frozenset((*range(100), *range(1000, 1050))))
GATEWAY = ModbusGateway(READS, UNITS, REGISTERS)
EVERYTHING = ModbusGateway(FUNCTIONS, ((0, 255),), ((0, 65_535),))
FRAMES = FramerSocket(DecodePDU(True))


def frame(pdu: bytes, unit: int = 1, transaction: int = 7, protocol: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">HHHB", transaction, protocol, len(pdu) + 1 if length is None else length, unit) + pdu


def read(function: int = 3, address: int = 0, count: int = 2, **head: int) -> bytes:
    return frame(struct.pack(">BHH", function, address, count), **head)


def refused(untrusted: bytes, gateway: ModbusGateway = GATEWAY) -> Refuse:
    verdict = gateway.request(untrusted)
    assert isinstance(verdict, Refuse), verdict
    return verdict


@given(st.sampled_from(sorted(READS)), st.integers(0, 65_535), st.integers(0, 200), st.integers(0, 4), st.binary())
def test_a_reading_request_passes_exactly_when_it_is_declared(
    function: int, address: int, count: int, unit: int, extra: bytes
) -> None:
    untrusted = read(function, address, count, unit=unit)
    in_ranges = DECLARED.registers.issuperset(range(address, address + count))
    declared = in_ranges and 1 <= count <= 125 and unit in DECLARED.units
    verdict = GATEWAY.request(untrusted)
    assert passes(verdict) == declared
    if passes(verdict):
        assert verdict[0] == untrusted
    if extra:
        assert isinstance(GATEWAY.request(untrusted + extra), Refuse)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=254).map(frame)))
def test_whatever_passes_is_a_declared_reading_request(untrusted: bytes) -> None:
    verdict = GATEWAY.request(untrusted)
    assert verdict is not None
    if passes(verdict):
        assert fault(verdict[0], DECLARED) is None


@given(st.binary(min_size=1, max_size=253), st.integers(0, 255), st.integers(0, 65_535))
def test_an_exception_answers_the_request_that_it_refuses(pdu: bytes, unit: int, transaction: int) -> None:
    verdict = GATEWAY.request(frame(pdu, unit, transaction))
    if isinstance(verdict, Refuse) and verdict.answer:
        assert not verdict.close
        head = struct.pack(">HHHBB", transaction, 0, 3, unit, pdu[0] | 0x80)
        assert verdict.answer[:-1] == head
        assert verdict.what.isprintable()


@given(st.lists(st.one_of(st.binary(max_size=20), st.integers(0, 3).map(lambda n: read(address=98 + n))), max_size=20))
def test_a_verdict_does_not_depend_on_what_came_before(messages: list[bytes]) -> None:
    seen = ModbusGateway(READS, UNITS, REGISTERS)
    for number, untrusted in enumerate(messages * 2):
        another = number.to_bytes(2, "big") + untrusted[2:]
        assert seen.request(another) == ModbusGateway(READS, UNITS, REGISTERS).request(another)


WRITES: list[ModbusPDU] = [
    WriteSingleCoilRequest(address=1, bits=[True]),
    WriteSingleRegisterRequest(address=1, registers=[2]),
    WriteMultipleCoilsRequest(address=1, bits=[True] * 9),
    WriteMultipleRegistersRequest(address=1, registers=[1, 2, 3]),
    MaskWriteRegisterRequest(address=1, and_mask=1, or_mask=2),
    ReadWriteMultipleRegistersRequest(read_address=1, read_count=2, write_address=3, write_registers=[4]),
]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(WRITES).map(lambda pdu: frame(bytes([pdu.function_code]) + pdu.encode())),
            st.integers(0, 400).map(lambda address: read(address=address)),
        ),
        max_size=300,
    )
)
def test_what_is_known_is_what_passes_as_it_came_and_changes_nothing(messages: list[bytes]) -> None:
    gateway = ModbusGateway(FUNCTIONS, UNITS, REGISTERS)
    for untrusted in messages:
        gateway.request(untrusted)
    for rest, (begin, length) in gateway.known.items():
        again = b"\x00\x09" + rest
        verdict = ModbusGateway(READS, UNITS, REGISTERS).request(again)
        assert passes(verdict)
        assert (verdict[0], verdict[2]) == (again, True)
        whole = again[: gateway.varies] + begin + bytes(length - gateway.varies - len(begin))
        assert gateway.is_whole(verdict[1], whole)


def test_so_many_requests_are_known_and_no_more() -> None:
    for address in range(3 * REMEMBERED):
        assert passes(EVERYTHING.request(read(address=address)))
        assert read(address=address)[EVERYTHING.varies :] in EVERYTHING.known
        assert len(EVERYTHING.known) <= REMEMBERED


@pytest.mark.parametrize("request_", WRITES, ids=lambda each: type(each).__name__)
def test_a_write_is_refused_unless_it_is_declared(request_: ModbusPDU) -> None:
    untrusted = frame(bytes([request_.function_code]) + request_.encode())
    verdict = refused(untrusted)
    assert (verdict.reason, verdict.answer[-1]) == (Reason.OPERATION, 1)
    passed = EVERYTHING.request(untrusted)
    assert passes(passed)
    assert passed[0] == untrusted


@given(st.binary(min_size=1, max_size=253).map(frame))
def test_what_passes_where_all_is_declared_is_what_a_device_reads(untrusted: bytes) -> None:
    verdict = EVERYTHING.request(untrusted)
    if passes(verdict):
        assert verdict[0] == untrusted
        pdu = FRAMES.decode(untrusted)[3]
        decoded = FRAMES.decoder.decode(pdu)
        assert decoded is not None
        assert decoded.function_code == untrusted[7]


@pytest.mark.parametrize(
    ("untrusted", "reason", "code"),
    [
        (read(function=8), Reason.OPERATION, 1),
        (frame(b"\x2b\x0e\x01\x00"), Reason.OPERATION, 1),
        (read(function=0), Reason.OPERATION, 1),
        (read(function=0x83), Reason.OPERATION, 1),
        (read(unit=3), Reason.UNIT, 0x0A),
        (read(unit=0), Reason.UNIT, 0x0A),
        (read(address=100), Reason.PLACE, 2),
        (read(address=99), Reason.PLACE, 2),
        (read(address=65_535, count=2), Reason.PLACE, 2),
        (read(count=0), Reason.MALFORMED, 3),
        (read(count=126), Reason.MALFORMED, 3),
        (frame(b"\x03\x00\x00\x00\x01\x00"), Reason.MALFORMED, 3),
        (frame(b"\x03\x00\x00"), Reason.MALFORMED, 3),
    ],
)
def test_a_whole_request_that_is_not_declared_gets_its_exception(untrusted: bytes, reason: Reason, code: int) -> None:
    verdict = refused(untrusted)
    assert (verdict.reason, verdict.answer[-1], verdict.close) == (reason, code, False)


@pytest.mark.parametrize(
    ("untrusted", "reason"),
    [
        (b"\x00", Reason.FRAGMENTED),
        (read()[:11], Reason.FRAGMENTED),
        (read() + read(transaction=8), Reason.PIPELINED),
        (read() + b"\x00", Reason.PIPELINED),
        (read()[:6] + read(transaction=8) + read()[6:], Reason.PIPELINED),
        (read(protocol=1), Reason.MALFORMED),
        (read(length=0), Reason.MALFORMED),
        (read(length=1), Reason.MALFORMED),
        (read(length=7), Reason.FRAGMENTED),
        (read(length=5), Reason.PIPELINED),
        (read(length=255), Reason.OVERSIZED),
        (frame(bytes(MOST_BYTES)), Reason.OVERSIZED),
        (b"GET / HTTP/1.1\r\n\r\n", Reason.MALFORMED),
    ],
)
def test_anything_but_one_whole_request_ends_the_connection(untrusted: bytes, reason: Reason) -> None:
    verdict = refused(untrusted)
    assert (verdict.reason, verdict.close, verdict.answer) == (reason, True, b"")
    assert verdict.what.isprintable()


@pytest.mark.parametrize(
    "request_",
    [
        ReadCoilsRequest(address=0, count=9),
        ReadDiscreteInputsRequest(address=0, count=8),
        ReadHoldingRegistersRequest(address=0, count=2),
        ReadInputRegistersRequest(address=5, count=1),
        *WRITES,
    ],
    ids=lambda each: type(each).__name__,
)
def test_only_the_answer_to_the_request_comes_back(request_: ModbusPDU) -> None:
    verdict = EVERYTHING.request(frame(bytes([request_.function_code]) + request_.encode()))
    assert passes(verdict)
    body = {1: b"\x02\xff\x01", 2: b"\x01\xff", 3: b"\x04\x00\x01\x00\x02", 4: b"\x02\x00\x09", 23: b"\x04abcd"}
    pdu = bytes([request_.function_code]) + body.get(request_.function_code, request_.encode()[:4])
    if request_.function_code == 22:
        pdu = bytes([22]) + request_.encode()
    answer = frame(pdu)
    assert EVERYTHING.answer(verdict[1], answer, False) == (answer, b"", True)
    for cut in range(len(answer)):
        assert EVERYTHING.answer(verdict[1], answer[:cut], False) == (b"", answer[:cut], False)
        with pytest.raises(BadAnswerError):
            EVERYTHING.answer(verdict[1], answer[:cut], True)
    exception = frame(bytes([request_.function_code | 0x80, 2]))
    assert EVERYTHING.answer(verdict[1], exception, False).deliver == exception
    wrong = [
        frame(pdu, transaction=8),
        frame(pdu, unit=2),
        frame(pdu, protocol=1),
        answer + b"\x00",
        answer + answer,
        frame(bytes([pdu[0] ^ 1]) + pdu[1:]),
        frame(bytes([request_.function_code | 0x80, 0x55])),
    ]
    for each in wrong:
        with pytest.raises(BadAnswerError):
            EVERYTHING.answer(verdict[1], each, False)


def test_touching_ranges_are_one() -> None:
    gateway = ModbusGateway(READS, UNITS, ((50, 99), (0, 49)))
    assert passes(gateway.request(read(address=40, count=20)))
    assert isinstance(GATEWAY.request(read(address=90, count=20)), Refuse)


def test_a_failure_is_an_exception_too() -> None:
    verdict = GATEWAY.request(read())
    assert passes(verdict)
    assert GATEWAY.failure(verdict[1], Reason.RATE)[-2:] == b"\x83\x06"
    assert GATEWAY.failure(verdict[1], Reason.UNREACHABLE)[-2:] == b"\x83\x0b"
