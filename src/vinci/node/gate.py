# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's door: who comes in, how many at once, and one sentence and one record for each who does not.

All that is refused is recorded, each UID's within a budget of its own. A user's connections and requests are bounded
below what all users may have together, a connection that asks for nothing is closed after seconds. Root's are not
counted: no user keeps the administrator out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import ValidationError

from vinci.model.source import MAX_BYTES
from vinci.node.audit import Audit, Event, Severity
from vinci.node.authorize import Peer, Role, peer_of
from vinci.node.channel import ChannelError
from vinci.node.denials import Denials
from vinci.node.printable import printable
from vinci.node.slots import Slots

_LOG = logging.getLogger(__name__)
MAX_CONNECTIONS, MAX_CONNECTIONS_EACH = 512, 128
MAX_REQUESTS, MAX_REQUESTS_EACH = 256, 64
"""Of all users together and of one UID; a login's whole session is one request. Root's are not counted."""
REQUEST_SECONDS = 5.0
"""Until a connection has asked for something, and from one answer to the next request."""
BACKLOG = 128
_STRANGERS = -1
"""Stands for all UIDs that are no members: they have one share together."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem(status: int, text: str) -> web.Response:
    """An answer that says in one sentence why there is no other."""
    return web.json_response({"error": text}, status=status)


def short(error: Exception) -> str:
    """What is wrong with a request, in one bounded sentence."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"[:300]
    return printable((str(error).splitlines() or [type(error).__name__])[0])[:300].rstrip(": ")


def peer_at(request: web.BaseRequest) -> Peer:
    """The process that asks."""
    try:
        if request.transport is not None:
            return peer_of(request.transport.get_extra_info("socket"))
    except OSError:
        pass  # it was closed meanwhile
    raise ConnectionResetError("the client went away")


def _share(peer: Peer) -> int:
    """Whose share of the agent's door and of the audit a peer's doings count to."""
    return _STRANGERS if peer.role is Role.STRANGER else peer.uid


class Gate:
    """Lets requests in, and answers and records those that do not come in or come to no good end."""

    def __init__(self, audit: Audit, log: Path) -> None:
        self._audit = audit
        self._log = log
        self._denials = Denials(audit)
        self._requests = Slots("requests", MAX_REQUESTS_EACH, MAX_REQUESTS)
        self.connections = Slots("connections", MAX_CONNECTIONS_EACH, MAX_CONNECTIONS)

    def denied(self, peer: Peer, severity: Severity, message: str) -> None:
        """Record that a peer was refused something."""
        whose = _name(_share(peer))
        self._denials.record(
            (whose,), f"{whose} at the agent's socket", Event.API_DENIED, severity, message, uid=peer.uid
        )

    def malformed(self, peer: Peer, path: str, error: Exception) -> str:
        """Record a request that makes no sense; the sentence for whoever sent it."""
        text = short(error)
        self.denied(peer, Severity.NOTICE, f"a malformed request to {path[:64]}: {text}")
        return f"the request is malformed: {text}"

    def failed(self, peer: Peer, path: str) -> str:
        """Record a failure of the agent's own while its exception is handled; the sentence for whoever asked."""

        def record() -> None:
            _LOG.exception("a request to %s failed", path[:64])
            text = f"a request to {path[:64]} failed"
            self._audit.record(Event.OPERATION_FAILED, Severity.ERROR, text, uid=peer.uid)

        whose = _name(_share(peer))
        self._denials.within((whose, "failed"), f"{whose} whose requests failed", record)
        return f"the agent failed at this request: see {self._log}"

    def not_done(self, peer: Peer, vm: str, error: ChannelError) -> None:
        """Record that a guest did not do what a peer asked of it; a hostile one may do so without end."""
        whose = _name(_share(peer))
        self._denials.record(
            (whose, vm),
            f"{whose} at {vm}",
            Event.OPERATION_FAILED,
            Severity.ERROR,
            f"a command in {vm} did not run: {error}",
            uid=peer.uid,
            vm=vm,
        )

    @property
    def middleware(self) -> Middleware:
        """Authorises each request, bounds what runs at once, and turns every error into one sentence."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            peer = peer_at(request)
            if refusal := peer.refusal(request.path):
                self.denied(peer, Severity.WARNING, f"UID {peer.uid} may not ask for {request.path[:64]}: {refusal}")
                return problem(403, refusal)
            if refusal := self._requests.refusal(peer.uid):
                return self._refused(request, peer, 503, refusal)
            with self._requests.held(peer.uid):
                return await self._answer(request, handler, peer)

        return guard

    async def _answer(self, request: web.Request, handler: Handler, peer: Peer) -> web.StreamResponse:
        try:
            if (request.content_length or 0) > MAX_BYTES:
                raise web.HTTPRequestEntityTooLarge(MAX_BYTES, request.content_length or 0)
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return self._refused(request, peer, error.status, _reason(request, error))
        except (ValidationError, ValueError, web.RequestPayloadError) as error:
            return problem(400, self.malformed(peer, request.path, error))
        except ChannelError as error:
            return problem(502, str(error))
        except ConnectionError:
            return problem(400, "the client went away in the middle of its request")
        except Exception:
            return problem(500, self.failed(peer, request.path))

    def _refused(self, request: web.Request, peer: Peer, status: int, reason: str) -> web.Response:
        self.denied(peer, Severity.NOTICE, f"a request for {request.path[:64]} was refused: {reason}")
        return problem(status, reason)

    async def listen(self, runner: web.AppRunner, listener: socket.socket) -> None:
        """Serve what comes in on a listening socket until the runner ends.

        Connections and VMs are many: the soft limit of descriptors is made the hard one (getrlimit(2)).
        """
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        await _Site(self, runner, listener).start()


def _name(share: int) -> str:
    return "strangers" if share == _STRANGERS else f"UID {share}"


def _reason(request: web.Request, error: web.HTTPException) -> str:
    if request.match_info.http_exception is not None:
        return f"the agent knows no {request.method[:16]} {request.path[:64]}"
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return f"a request has at most {MAX_BYTES} bytes"
    return error.reason


class _Site(web.BaseSite):
    """Accepts connections for a runner, each behind the gate."""

    def __init__(self, gate: Gate, runner: web.AppRunner, listener: socket.socket) -> None:
        super().__init__(runner)
        self._gate = gate
        self._listener = listener

    @property
    def name(self) -> str:
        return str(self._listener.getsockname())

    async def start(self) -> None:
        await super().start()
        server, loop = self._runner.server, asyncio.get_running_loop()
        assert isinstance(server, web.Server)
        self._server = await loop.create_unix_server(
            lambda: _Connection(self._gate, server, loop), sock=self._listener, backlog=BACKLOG
        )


class _Connection(web.RequestHandler):
    """One connection; what is no HTTP at all is answered and recorded too."""

    __slots__ = ("_counted_as", "_gate", "_peer")

    def __init__(self, gate: Gate, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, keepalive_timeout=REQUEST_SECONDS, lingering_time=REQUEST_SECONDS)
        self._gate = gate
        self._peer = Peer(_STRANGERS, _STRANGERS)
        self._counted_as: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._peer = peer_of(transport.get_extra_info("socket"))
        share = _share(self._peer)
        refusal = self._gate.connections.refusal(share)
        if refusal is not None:
            self._gate.denied(self._peer, Severity.NOTICE, f"a connection was refused: {refusal}")
            assert isinstance(transport, asyncio.Transport)
            transport.write(_last_answer(503, refusal))
            transport.close()
            return
        self._gate.connections.take(share)
        self._counted_as = share
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._counted_as is not None:
            self._gate.connections.give_back(self._counted_as)
            super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What no handler saw: bytes that are no request."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun: there is no other")
        error = exc if isinstance(exc, Exception) else ValueError(message or f"status {status}")
        if status >= 500:
            answer = problem(status, self._gate.failed(self._peer, request.path))
        else:
            answer = problem(status, self._gate.malformed(self._peer, request.path, error))
        answer.force_close()
        return answer


def _last_answer(status: int, text: str) -> bytes:
    body = json.dumps({"error": text}).encode()
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
