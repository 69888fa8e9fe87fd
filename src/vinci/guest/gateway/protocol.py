# SPDX-License-Identifier: GPL-2.0-or-later
"""What a protocol's gateway is to the relay: it reads requests and answers, and never touches a socket.

The next protocol is one file with one class like this, and its line in `settings.PROTOCOLS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol


class Reason(StrEnum):
    """Why something did not pass. The text is what the audit shows."""

    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    FRAGMENTED = "fragmented"
    PIPELINED = "pipelined"
    OPERATION = "operation-not-declared"
    UNIT = "unit-not-declared"
    PLACE = "place-not-declared"
    RATE = "rate"
    CONNECTIONS = "too-many-connections"
    SLOW = "too-slow"
    UNREACHABLE = "target-unreachable"
    ANSWER = "bad-answer"
    UNDECLARED_PEER = "peer-not-declared"
    FAULT = "fault-of-the-gateway"


Forward = tuple[bytes, Any, bool]
"""A request that passes: as it is sent to the target, rebuilt from what was read; the answer it has to get; whether the
target may get it twice, because it changes nothing there. A bare tuple: making one with names takes an emulated VM
longer than judging the request."""

Known = tuple[bytes, int]
"""Of the whole answer to a request that is known: how it goes on behind the bytes that vary, and its length."""


class Refuse(NamedTuple):
    """A request that does not pass. `what` is printable and short; without `answer` nothing is said."""

    reason: Reason
    what: str
    answer: bytes
    close: bool


class Delivery(NamedTuple):
    """What of an answer goes to the client now, what has to be read again with more bytes, whether this was all."""

    deliver: bytes
    rest: bytes
    done: bool


class BadAnswerError(Exception):
    """The target's answer is none to the request that was sent."""


class Gateway(Protocol):
    """One protocol's reading of requests and answers, bound to what one flow lets through."""

    most_bytes: int
    """No request is longer."""
    answer_bytes: int
    """So much of an answer is read at once."""
    keeps_connection: bool
    """Whether another request may follow an answered one."""
    varies: int
    """So many bytes, the first of a request and of its answer, do not matter to the verdict."""

    @property
    def known(self) -> Mapping[bytes, Known]:
        """Requests that passed, without the bytes that vary: those that change nothing at the target, and that
        `request` writes anew as they came, byte for byte. One that comes again passes again."""

    def request(self, untrusted: bytes) -> Forward | Refuse | None:
        """Judge what a client has sent since the last answer; None when it is the beginning of a request."""

    def is_whole(self, expected: Any, untrusted: bytes) -> bool:
        """Whether these first bytes from the target are the whole answer, which passes as it came."""

    def answer(self, expected: Any, untrusted: bytes, ended: bool) -> Delivery:
        """Judge what the target has sent; `ended` when it will send no more.

        Raises:
            BadAnswerError: it is no answer to that request.
        """

    def failure(self, expected: Any, reason: Reason) -> bytes:
        """What a client is told whose request would pass, but for the reason."""
