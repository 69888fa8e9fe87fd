# SPDX-License-Identifier: GPL-2.0-or-later
"""Joins clients to targets, request by request, as a gateway judges: sockets, deadlines and bounds.

A thread a connection, blocking calls with the kernel's own time-outs: in the usual case a request costs two receives
and two sends, and nothing else. Each client's connection has a connection of its own to the target, made when its
first request passes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from struct import Struct, pack
from threading import Thread
from time import monotonic
from typing import Any

from .bounds import Budget, Recorder, Slots
from .protocol import BadAnswerError, Forward, Reason, Refuse
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
        self._gateway, self._requests, self._record = relay.gateway, relay.requests, record
        self._client, self._target = client, target
        self._upstream: socket.socket | None = None

    def run(self) -> None:
        """Until the client ends it, or a request does."""
        _set_up(self._client, IDLE_SECONDS)
        receive, most, judge = self._client.recv, self._gateway.most_bytes + 1, self._gateway.request
        is_last, take = not self._gateway.keeps_connection, self._requests.take
        try:
            while untrusted := receive(most):
                verdict = judge(untrusted) or self._rest(untrusted)
                if isinstance(verdict, Refuse):
                    self._refuse(verdict)
                elif take():
                    request, expected, repeatable = verdict
                    self._pass(request, expected, repeatable)
                else:
                    self._fail(verdict[1], Reason.RATE, "")
                if is_last:
                    return
        finally:
            self._hang_up()

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

    def _pass(self, request: bytes, expected: Any, repeatable: bool) -> None:
        """Send a request to the target and its answer to the client."""
        upstream, untrusted = self._upstream, b""
        try:
            if upstream is not None and repeatable:
                try:
                    upstream.sendall(request)
                    untrusted = upstream.recv(self._gateway.answer_bytes)
                except _GONE:
                    pass
            if not untrusted:
                untrusted = self._ask(request, repeatable)
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

    def _ask(self, request: bytes, repeatable: bool) -> bytes:
        """Send a request over a new connection: there is none, or the target has ended it, as it may when it was idle.

        What the target must not get twice goes over the one that there is, if that has not ended. How the answer
        begins; nothing when the target ended the connection instead.

        Raises:
            OSError: the target cannot be reached or is silent.
        """
        upstream = self._upstream
        if upstream is None or repeatable or _has_ended(upstream):
            self._hang_up()
            upstream = self._connect()
        try:
            upstream.sendall(request)
            return upstream.recv(self._gateway.answer_bytes)
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
            untrusted = self._upstream.recv(self._gateway.answer_bytes)

    def _connect(self) -> socket.socket:
        upstream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            _time_out(upstream, socket.SO_SNDTIMEO, CONNECT_SECONDS)
            upstream.connect(self._target)
            _set_up(upstream, ANSWER_SECONDS)
        except OSError:
            upstream.close()
            raise
        self._upstream = upstream
        return upstream

    def _hang_up(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None

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
