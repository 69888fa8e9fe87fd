# SPDX-License-Identifier: GPL-2.0-or-later
"""Joins clients to targets, request by request, as a gateway judges: sockets, deadlines and bounds.

A thread a connection, blocking calls with the kernel's own time-outs: in the usual case a request costs two reads and
two writes, and nothing else. Each client's connection has a connection of its own to the target, made when its first
request passes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from os import read, write
from struct import Struct, pack
from threading import Thread
from time import monotonic
from typing import Any

from .bounds import Budget, Recorder, Slots
from .protocol import BadAnswerError, Forward, Known, Reason, Refuse
from .settings import Settings

CONNECTIONS, CONNECTIONS_EACH = 32, 8
IDLE_SECONDS, REQUEST_SECONDS, SEND_SECONDS = 120, 5, 5
CONNECT_SECONDS, ANSWER_SECONDS, EXCHANGE_SECONDS = 3, 5, 60
_ORIGINAL_DESTINATION = 80  # SO_ORIGINAL_DST of linux/netfilter_ipv4.h
_ADDRESS = Struct("!HH4s8x")  # struct sockaddr_in

_GONE = (BrokenPipeError, ConnectionResetError)

Address = tuple[str, int]


def original_destination(client: socket.socket) -> Address:
    """Whom a client wanted to reach before the packet rules brought it here. Raises OSError for who came otherwise."""
    _family, port, address = _ADDRESS.unpack(client.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, _ADDRESS.size))
    return socket.inet_ntoa(address), port


class _EndedError(Exception):
    """The client has gone, or was sent away."""


class Relay:
    """One flow's gateway at work."""

    def __init__(
        self,
        settings: Settings,
        write: Callable[[bytes], object],
        destination: Callable[[socket.socket], Address] = original_destination,
    ) -> None:
        """`write` takes the lines of records; `destination` tells the target that a client means."""
        self.gateway = settings.gateway
        self.requests = Budget(settings.rate, settings.rate)
        self._recorder = Recorder(write, settings.flow)
        self._slots = Slots(CONNECTIONS, CONNECTIONS_EACH)
        self._sources = settings.sources
        self._targets = frozenset((target, settings.port) for target in settings.targets)
        self._destination = destination

    def serve(self, listener: socket.socket) -> None:
        """Take connections for ever.

        Raises:
            OSError: the listener failed; the process is to end, and init starts another.
        """
        while True:
            client, (source, _port) = listener.accept()
            if not self._slots.take(source):
                self._recorder.record(Reason.CONNECTIONS, source, "-", "")
                client.close()
                continue
            try:
                Thread(target=self._connection, args=(client, source), daemon=True).start()
            except RuntimeError:  # no thread to be had
                self._slots.give_back(source)
                self._recorder.record(Reason.CONNECTIONS, source, "-", "")
                client.close()

    def _connection(self, client: socket.socket, source: str) -> None:
        """One client's connection to its end; whatever happens in it stays in it."""
        address: Address = ("-", 0)

        def record(reason: Reason, what: str) -> None:
            self._recorder.record(reason, source, address[0], what)

        try:
            with client:
                address = self._destination(client)
                if source in self._sources and address in self._targets:
                    _Conversation(self, client, address, record).run()
                else:
                    record(Reason.UNDECLARED_PEER, f"port {address[1]}")
        except (OSError, _EndedError):
            pass
        except Exception as error:  # nothing is passed on, nobody else is touched
            record(Reason.FAULT, type(error).__name__)
        finally:
            self._slots.give_back(source)


class _Conversation:
    """Requests and answers of one client, one after the other."""

    def __init__(
        self, relay: Relay, client: socket.socket, target: Address, record: Callable[[Reason, str], None]
    ) -> None:
        self._gateway, self._take, self._record = relay.gateway, relay.requests.take, record
        self._client, self._target = client, target
        self._upstream: socket.socket | None = None
        # Reads and writes by number are what a request passes by: a socket's methods take twice the instructions.
        self._client_number, self._upstream_number = client.fileno(), -1
        self._varies, self._answer_bytes = relay.gateway.varies, relay.gateway.answer_bytes

    def run(self) -> None:
        """Until the client ends it, or a request does."""
        _set_up(self._client, IDLE_SECONDS)
        client, most, known, varies = (
            self._client_number,
            self._gateway.most_bytes + 1,
            self._gateway.known,
            self._varies,
        )
        try:
            while untrusted := read(client, most):
                before = known.get(untrusted[varies:])
                if before is not None and self._upstream is not None and self._take():
                    self._again(untrusted, before)
                else:
                    self._judge(untrusted)
                if not self._gateway.keeps_connection:
                    return
        finally:
            self._hang_up()

    def _again(self, untrusted: bytes, known: Known) -> None:
        """Pass what is known to pass, over the connection that there is: all that is done for a request, as a rule."""
        begin, length = known
        answer: bytes | OSError
        try:
            if write(self._upstream_number, untrusted) != len(untrusted):
                raise TimeoutError
            answer = read(self._upstream_number, self._answer_bytes)
            whole = untrusted[: self._varies] + begin
            if len(answer) == length and answer[: len(whole)] == whole:
                self._say(answer)
                return
        except _GONE:
            answer = b""
        except OSError as error:
            answer = error
        self._judge(untrusted, answer)

    def _judge(self, untrusted: bytes, answer: bytes | OSError | None = None) -> None:
        """Do with a request as the gateway says. `answer` is how that begins, of one that was counted and sent."""
        verdict = self._gateway.request(untrusted) or self._rest(untrusted)
        if isinstance(verdict, Refuse):
            self._refuse(verdict)
        elif answer is not None or self._take():
            self._pass(verdict, answer)
        else:
            self._fail(verdict[1], Reason.RATE, "")

    def _rest(self, untrusted: bytes) -> Forward | Refuse:
        """The verdict on a request that comes in parts: all of it within a time, however it is cut."""
        deadline = monotonic() + REQUEST_SECONDS
        _time_out(self._client, socket.SO_RCVTIMEO, REQUEST_SECONDS)
        while monotonic() < deadline:
            try:
                more = self._client.recv(self._gateway.most_bytes + 1)
            except BlockingIOError:
                break
            if not more:
                raise _EndedError
            untrusted += more
            verdict = self._gateway.request(untrusted)
            if verdict is not None:
                _time_out(self._client, socket.SO_RCVTIMEO, IDLE_SECONDS)
                return verdict
        self._record(Reason.SLOW, f"{len(untrusted)} bytes in {REQUEST_SECONDS} s")
        raise _EndedError

    def _pass(self, forward: Forward, answer: bytes | OSError | None) -> None:
        """Send a request to the target, unless it was sent, and its answer to the client."""
        request, expected, repeatable = forward
        try:
            if isinstance(answer, OSError):
                raise answer
            untrusted = answer or self._ask(request, repeatable, is_first=answer is None)
            if self._gateway.is_whole(expected, untrusted):
                self._say(untrusted)
            else:
                self._in_parts(expected, untrusted)
        except BadAnswerError as error:
            self._hang_up()
            self._fail(expected, Reason.ANSWER, str(error))
        except OSError as error:
            self._hang_up()
            self._fail(expected, Reason.UNREACHABLE, type(error).__name__)

    def _ask(self, request: bytes, repeatable: bool, *, is_first: bool) -> bytes:
        """Send a request over the connection that there is, or over a new one where the target has ended that.

        It may when it was idle. What the target must not get twice is sent once, over a connection that has not ended.
        How the answer begins; nothing when the target ended the connection instead.

        Raises:
            OSError: the target cannot be reached or is silent.
        """
        if self._upstream is not None and is_first and (repeatable or not _has_ended(self._upstream)):
            answer = self._exchange(self._upstream, request)
            if answer or not repeatable:
                return answer
        self._hang_up()
        return self._exchange(self._connect(), request)

    def _exchange(self, upstream: socket.socket, request: bytes) -> bytes:
        try:
            upstream.sendall(request)
            return upstream.recv(self._answer_bytes)
        except _GONE:
            return b""

    def _in_parts(self, expected: Any, untrusted: bytes) -> None:
        """Pass on an answer that begins so, as the gateway judges it.

        Raises:
            BadAnswerError: what came is no answer to it.
            OSError: the target is silent, or does not come to an end.
        """
        deadline = monotonic() + EXCHANGE_SECONDS
        received = b""
        while True:
            deliver, received, done = self._gateway.answer(expected, received + untrusted, not untrusted)
            if deliver:
                self._say(deliver)
            if done:
                return
            if monotonic() > deadline or self._upstream is None:
                raise TimeoutError
            untrusted = self._upstream.recv(self._answer_bytes)

    def _connect(self) -> socket.socket:
        upstream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            _time_out(upstream, socket.SO_SNDTIMEO, CONNECT_SECONDS)
            upstream.connect(self._target)
            _set_up(upstream, ANSWER_SECONDS)
        except OSError:
            upstream.close()
            raise
        self._upstream, self._upstream_number = upstream, upstream.fileno()
        return upstream

    def _hang_up(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
            self._upstream, self._upstream_number = None, -1

    def _refuse(self, refused: Refuse) -> None:
        self._record(refused.reason, refused.what)
        if refused.answer:
            self._say(refused.answer)
        if refused.close:
            raise _EndedError

    def _fail(self, expected: Any, reason: Reason, what: str) -> None:
        self._record(reason, what)
        self._say(self._gateway.failure(expected, reason))

    def _say(self, text: bytes) -> None:
        try:
            self._client.sendall(text)
        except OSError:
            raise _EndedError from None


def _has_ended(connection: socket.socket) -> bool:
    """Whether a connection on which nothing is asked has ended, or says something all the same."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _set_up(connection: socket.socket, seconds: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _time_out(connection, socket.SO_RCVTIMEO, seconds)
    _time_out(connection, socket.SO_SNDTIMEO, SEND_SECONDS)


def _time_out(connection: socket.socket, option: int, seconds: int) -> None:
    """The kernel's own time-out: Python's would ask `poll` before each receive."""
    connection.setsockopt(socket.SOL_SOCKET, option, pack("@ll", seconds, 0))
