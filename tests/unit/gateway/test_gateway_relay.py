# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay between real sockets: requests reach the target one by one, and a failure stays in its connection."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from os import sched_yield
from threading import Semaphore, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinci.guest.gateway import relay as relays
from vinci.guest.gateway.bounds import RECORDS_BURST, Budget, Recorder, Slots
from vinci.guest.gateway.protocol import Reason
from vinci.guest.gateway.relay import Relay
from vinci.guest.gateway.settings import Settings, read_settings

READ = bytes.fromhex("000700000006010300050001")
ANSWER = bytes.fromhex("0007000000050103020005")
BUSY, NO_ANSWER = bytes.fromhex("000700000003018306"), bytes.fromhex("00070000000301830b")
WRITE = bytes.fromhex("000700000006010600050063")
LOCAL = "127.0.0.1"


class Device:
    """A target that answers as told; it keeps what it gets."""

    def __init__(self) -> None:
        self.listener = socket.create_server((LOCAL, 0))
        self.answer = ANSWER
        self.requests_each = 1000
        """After so many it ends a connection: before the next one, or having read the next one."""
        self.reads_one_more = False
        self.cut = 0
        """Bytes of an answer that are sent alone, and the rest when they have arrived."""
        self.got: list[bytes] = []
        self.ended = Semaphore(0)
        Thread(target=self._serve, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, suppress(ConnectionResetError):
            for _ in range(self.requests_each):
                request = client.recv(300)
                if not request:
                    return
                self.got.append(request)
                client.sendall(self.answer[: self.cut])
                if self.cut:
                    _wait_until_acknowledged(client)
                client.sendall(self.answer[self.cut :])
            if self.reads_one_more:
                self.got.append(client.recv(300))
        self.ended.release()


def _wait_until_acknowledged(connection: socket.socket) -> None:
    """The other end has got all that was sent: SIOCOUTQ of tcp(7) tells the bytes that it has not."""
    while struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))) != (0,):
        sched_yield()


class Bench:
    """A relay in front of a device, with its records."""

    def __init__(
        self, device: Device, rate: int = 1000, sources: str = LOCAL, functions: str = "3", registers: str = "0-9"
    ) -> None:
        self.records: list[bytes] = []
        line = f"20000 modbus flow=3 sources={sources} targets={LOCAL} port={device.port} rate={rate}"
        settings = read_settings(f"{line} functions={functions} units=1 registers={registers}")
        self.listener = socket.create_server((LOCAL, 0))
        address = (LOCAL, device.port)
        relay = Relay(settings, self.records.append, lambda _client: address)
        Thread(target=self._serve, args=(relay,), daemon=True).start()

    def _serve(self, relay: Relay) -> None:
        with suppress(OSError):
            relay.serve(self.listener)

    @contextmanager
    def client(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.listener.getsockname()) as client:
            client.settimeout(10)
            yield client


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.listener.close()


def test_requests_of_one_connection_reach_the_target_in_turn(device: Device) -> None:
    bench = Bench(device)
    with bench.client() as client:
        for _ in range(3):
            client.sendall(READ)
            assert client.recv(300) == ANSWER
        client.sendall(WRITE)
        assert client.recv(300) == bytes.fromhex("000700000003018601")
        client.sendall(READ)
        assert client.recv(300) == ANSWER
    assert device.got == [READ] * 4
    assert len(bench.records) == 1
    assert bench.records[0].startswith(b"<6>vinci-gw operation-not-declared flow=3 source=127.0.0.1 target=127.0.0.1 ")


def test_an_answer_to_something_else_is_not_passed_on(device: Device) -> None:
    device.answer = bytes.fromhex("0008000000050103020005")
    bench = Bench(device)
    with bench.client() as client:
        client.sendall(READ)
        assert client.recv(300) == NO_ANSWER
        device.answer = ANSWER
        client.sendall(READ)
        assert client.recv(300) == ANSWER
    assert b"bad-answer" in bench.records[0]


def test_a_target_that_ends_an_idle_connection_is_asked_over_a_new_one(device: Device) -> None:
    device.requests_each = 1
    bench = Bench(device)
    with bench.client() as client:
        for _ in range(3):
            client.sendall(READ)
            assert client.recv(300) == ANSWER
            assert device.ended.acquire(timeout=10)
    assert (device.got, bench.records) == ([READ] * 3, [])


def test_a_write_goes_over_a_new_connection_when_the_idle_one_has_ended(device: Device) -> None:
    device.requests_each, device.answer = 1, WRITE
    bench = Bench(device, functions="6", registers="0-99")
    with bench.client() as client:
        for _ in range(3):
            client.sendall(WRITE)
            assert client.recv(300) == WRITE
            assert device.ended.acquire(timeout=10)
    assert (device.got, bench.records) == ([WRITE] * 3, [])


def test_a_read_is_asked_twice_at_most(device: Device) -> None:
    device.requests_each, device.reads_one_more = 1, True
    bench = Bench(device)
    with bench.client() as client:
        client.sendall(READ)
        assert client.recv(300) == ANSWER
        client.sendall(READ)  # got and not answered; the next connection answers it
        assert client.recv(300) == ANSWER
        device.requests_each = 0
        client.sendall(READ)  # got and not answered, and so it is on the next connection
        assert client.recv(300) == NO_ANSWER
    assert device.got == [READ] * 5
    assert [record.split()[1] for record in bench.records] == [b"bad-answer"]


def test_a_write_that_may_have_been_carried_out_is_not_repeated(device: Device) -> None:
    device.requests_each, device.answer, device.reads_one_more = 1, WRITE, True
    bench = Bench(device, functions="6", registers="0-99")
    with bench.client() as client:
        client.sendall(WRITE)
        assert client.recv(300) == WRITE
        client.sendall(WRITE)
        assert client.recv(300) == bytes.fromhex("00070000000301860b")
    assert device.got == [WRITE] * 2
    assert b"bad-answer" in bench.records[0]


def test_a_target_that_is_away_is_told(device: Device) -> None:
    bench = Bench(device)
    device.listener.shutdown(socket.SHUT_RDWR)
    device.listener.close()
    with bench.client() as client:
        client.sendall(READ)
        assert client.recv(300) == NO_ANSWER
    assert b"target-unreachable" in bench.records[0]


def test_a_silent_target_is_told(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "ANSWER_SECONDS", 1)
    device.answer = b""
    bench = Bench(device)
    with bench.client() as client:
        client.sendall(READ)
        assert client.recv(300) == NO_ANSWER


def test_a_target_that_falls_silent_is_told_and_asked_once(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "ANSWER_SECONDS", 1)
    bench = Bench(device)
    with bench.client() as client:
        client.sendall(READ)
        assert client.recv(300) == ANSWER
        device.answer = b""
        client.sendall(READ)
        assert client.recv(300) == NO_ANSWER
    assert device.got == [READ] * 2
    assert [record.split()[1] for record in bench.records] == [b"target-unreachable"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (bytes.fromhex("0008000000050103020005"), NO_ANSWER),
        (bytes.fromhex("000700000005010302000500"), NO_ANSWER),
        (bytes.fromhex("000700000005010303000500"), NO_ANSWER),
        (bytes.fromhex("000700000003018302"), bytes.fromhex("000700000003018302")),
    ],
    ids=["another transaction", "a byte too many", "another count", "an exception"],
)
def test_an_answer_is_judged_to_a_request_that_is_known(device: Device, answer: bytes, told: bytes) -> None:
    bench = Bench(device, rate=2)  # each is counted once
    with bench.client() as client:
        client.sendall(READ)
        assert client.recv(300) == ANSWER
        device.answer = answer
        client.sendall(READ)
        assert client.recv(300) == told
    assert device.got == [READ] * 2


def test_an_answer_in_parts_to_a_request_that_is_known_is_passed_on_whole(device: Device) -> None:
    device.cut = 5
    bench = Bench(device)
    with bench.client() as client:
        for _ in range(3):
            client.sendall(READ)
            assert client.recv(300) == ANSWER
    assert (device.got, bench.records) == ([READ] * 3, [])


def test_a_known_request_is_counted_as_others_are(device: Device) -> None:
    bench = Bench(device, rate=3)
    with bench.client() as client:
        told = []
        for _ in range(4):
            client.sendall(READ)
            told.append(client.recv(300))
    assert told == [ANSWER] * 3 + [BUSY]
    assert device.got == [READ] * 3


def test_more_than_the_rate_is_refused(device: Device) -> None:
    bench = Bench(device, rate=1)
    with bench.client() as client:
        client.sendall(READ)
        assert client.recv(300) == ANSWER
        client.sendall(READ)
        assert client.recv(300) == BUSY
    assert device.got == [READ]


def test_a_client_from_elsewhere_is_sent_away(device: Device) -> None:
    bench = Bench(device, sources="10.0.0.1")
    with bench.client() as client:
        assert client.recv(300) == b""
    assert b"peer-not-declared" in bench.records[0]
    assert device.got == []


def test_a_fault_in_one_connection_leaves_the_others(device: Device) -> None:
    bench = Bench(device)
    device.answer = bytes(70_000)
    with bench.client() as broken, bench.client() as other:
        broken.sendall(READ)
        assert broken.recv(300) == NO_ANSWER
        device.answer = ANSWER
        other.sendall(READ)
        assert other.recv(300) == ANSWER


def test_connections_are_bounded(device: Device) -> None:
    bench = Bench(device)
    held = [socket.create_connection(bench.listener.getsockname()) for _ in range(relays.CONNECTIONS_EACH + 1)]
    held[-1].settimeout(10)
    assert held[-1].recv(300) == b""
    held[0].sendall(READ)
    assert held[0].recv(300) == ANSWER
    for each in held:
        each.close()


def test_slots_and_budgets_are_given_back() -> None:
    slots = Slots(2, 1)
    assert (slots.take("a"), slots.take("a"), slots.take("b"), slots.take("c")) == (True, False, True, False)
    slots.give_back("a")
    assert slots.take("c")
    now = [0.0]
    budget = Budget(2, 1, lambda: now[0])
    assert (budget.take(), budget.take()) == (True, False)
    now[0] = 0.5
    assert (budget.take(), budget.take()) == (True, False)


@given(st.sampled_from((1, 2, 8)), st.integers(1, 4), st.lists(st.sampled_from((0, 0, 0, 0, 1, 40)), max_size=60))
def test_a_budget_is_a_token_bucket(per_second: int, burst: int, waits: list[int]) -> None:
    """Waits are eighths of a second, which floats hold exactly. Nothing is saved up beyond the burst."""
    now = [1000.0]
    budget = Budget(per_second, burst, lambda: now[0])
    tokens = Fraction(burst)
    for wait in waits:
        now[0] += wait / 8
        tokens = min(Fraction(burst), tokens + Fraction(wait * per_second, 8))
        assert budget.take() == (tokens >= 1)
        tokens -= tokens >= 1


def test_a_flood_of_refusals_is_counted_not_written() -> None:
    lines: list[bytes] = []
    now = [0.0]
    recorder = Recorder(lines.append, 0, lambda: now[0])
    for _ in range(1000):
        recorder.record(Reason.MALFORMED, "10.0.0.1", "10.0.0.2", "x" * 1000)
    assert len(lines) == RECORDS_BURST
    assert max(map(len, lines)) < 300
    recorder.record(Reason.MALFORMED, "10.0.0.9", "10.0.0.2", "")
    assert b" source=10.0.0.9 target=10.0.0.2 lost=0 " in lines[-1], "one client's flood hides another's refusal"
    now[0] = 1.0
    recorder.record(Reason.MALFORMED, "10.0.0.1", "10.0.0.2", "")
    assert f"lost={1000 - RECORDS_BURST} ".encode() in lines[-1]


def test_settings_are_those_of_the_table() -> None:
    line = (
        "20001 http flow=2 sources=10.0.0.1 targets=10.0.0.2 port=80 rate=5 methods=GET paths=/a,/b/* max_body_bytes=9"
    )
    settings = read_settings(line)
    assert isinstance(settings, Settings)
    assert (settings.number, settings.flow, settings.port, settings.rate) == (20_001, 2, 80, 5)
    with pytest.raises(KeyError):
        read_settings(line.replace("http", "dnp3"))
