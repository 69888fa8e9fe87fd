# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's API on its Unix socket: HTTP with JSON, for root and, in part, members of the group `vinci`.

Each request goes through three stages in this order: authorise (the peer's credentials, before a byte of the body is
read: `vinci.node.gate`), sanitise (size and types, pydantic), act. Long work answers with JSON lines: progress first,
one result last.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import itertools
import logging
import os
import shlex
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import WSMsgType, web

from vinci.model.source import MAX_BYTES
from vinci.node.agent import Agent
from vinci.node.audit import Event, Severity
from vinci.node.authenticate import DeniedError, hash_password
from vinci.node.authorize import GROUP, Role
from vinci.node.channel import ChannelError
from vinci.node.gate import Gate, peer_at, problem
from vinci.node.introspection.evidence import NAMESPACE
from vinci.node.introspection.service import ReleaseError, look_json
from vinci.node.long_work import LongWork
from vinci.node.reconcile import Outcome, Report
from vinci.node.relay import Terminal, relay
from vinci.node.requests import (
    AttachmentRequest,
    EvidenceMessage,
    ExecMessage,
    InspectRequest,
    LoginMessage,
    ManifestMessage,
    PasswordRequest,
    ReleaseRequest,
    TerminalRequest,
)
from vinci.node.sessions import LoginRequest
from vinci.node.status import status_of
from vinci.node.verification.run import verify
from vinci.node.without_hashes import without_hashes
from vinci.plan.types import Vm
from vinci.policy.login import CommunityNeededError
from vinci.store.sqlite import StoredDeclaration
from vinci.vmm.host import VmmError

_LOG = logging.getLogger(__name__)
MAX_MESSAGE = 256 * 1024
AUDIT_BATCH = 200
FIRST_MESSAGE_SECONDS = 10.0
"""For the message in which a WebSocket says what it is for; people are asked before it is opened."""
SAVE_SECONDS = 3600.0
"""For an administrator's copy of a VM's memory."""


def application(agent: Agent, gate: Gate) -> web.Application:
    """The API of one agent behind its gate."""
    app = web.Application(client_max_size=MAX_BYTES, middlewares=[gate.middleware])
    api = _Api(agent, gate)
    app.add_routes(
        [
            web.get("/v1/status", api.status),
            web.get("/v1/declaration", api.declaration),
            web.get("/v1/former", api.former),
            web.post("/v1/up", api.up),
            web.post("/v1/down", api.down),
            web.post("/v1/verify", api.verify),
            web.get("/v1/audit", api.audit),
            web.post("/v1/password", api.password),
            web.get("/v1/console", api.console),
            web.post("/v1/inspect", api.inspect),
            web.post("/v1/release", api.release),
            web.post("/v1/attachment", api.attachment),
            web.get("/v1/evidence", api.evidence),
            web.get("/v1/login", api.login),
            web.get("/v1/exec", api.execute),
        ]
    )
    return app


async def serve(agent: Agent, path: Path) -> web.AppRunner:
    """Listen on the Unix socket; nobody but root and the group can open it."""
    path.unlink(missing_ok=True)
    gate = Gate(agent.audit, agent.paths.log)
    runner = web.AppRunner(application(agent, gate), access_log=None, handle_signals=False)
    await runner.setup()
    previous = os.umask(0o177)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
    finally:
        os.umask(previous)
    with contextlib.suppress(KeyError):
        os.chown(path, 0, grp.getgrnam(GROUP).gr_gid)
        path.chmod(0o660)
    await gate.listen(runner, listener)
    return runner


def _result(outcome: Outcome) -> dict[str, object]:
    if outcome.failures:
        return {"failed": outcome.failures, "changes": outcome.changes}
    return {"changes": outcome.changes}


async def _declaration(request: web.Request, stored: StoredDeclaration) -> web.Response:
    """A declaration; who does not administer gets it without the hashes of passwords."""
    if peer_at(request).role is Role.ADMINISTRATOR:
        text = stored.text.decode(errors="replace")
    else:
        text = await asyncio.to_thread(without_hashes, stored.text)
    return web.json_response({"version": stored.version, "path": stored.path, "text": text})


_Message = dict[str, object]


class _Api:
    def __init__(self, agent: Agent, gate: Gate) -> None:
        self._agent = agent
        self._gate = gate

    async def status(self, _request: web.Request) -> web.Response:
        return web.json_response(await status_of(self._agent))

    async def declaration(self, request: web.Request) -> web.Response:
        stored = self._agent.store.declaration()
        if stored is None:
            return problem(404, "no declaration is in force")  # an answer to the question, not a refusal
        return await _declaration(request, stored)

    async def former(self, request: web.Request) -> web.Response:
        """The newest declaration that is kept, in force or not; `before` a version, the newest of a lower one."""
        before = request.query.get("before")
        stored = self._agent.store.former(int(before) if before is not None else None)
        if stored is None:
            return problem(404, "no such declaration is kept")
        return await _declaration(request, stored)

    async def up(self, request: web.Request) -> web.StreamResponse:
        path, text = request.query.get("path", "")[:4096], await request.read()

        async def work(report: Report) -> dict[str, object]:
            return _result(await self._agent.up(path, text, report))

        return await LongWork(request, self._agent.audit).run(work)

    async def down(self, request: web.Request) -> web.StreamResponse:
        async def work(report: Report) -> dict[str, object]:
            return _result(await self._agent.down(report))

        try:
            return await LongWork(request, self._agent.audit).run(work)
        finally:
            if self._agent.is_down:
                self._agent.finished.set()

    async def verify(self, request: web.Request) -> web.StreamResponse:
        async def work(report: Report) -> dict[str, object]:
            return await verify(self._agent, report)

        return await LongWork(request, self._agent.audit).run(work)

    async def audit(self, request: web.Request) -> web.StreamResponse:
        since = int(request.query.get("since", "0"))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            if request.query.get("follow") != "1":
                records = self._agent.audit.past(since)
                while lines := list(itertools.islice(records, AUDIT_BATCH)):
                    await response.write("".join(line + "\n" for line in lines).encode())
                    await asyncio.sleep(0)  # others are served while much is read
                return response
            async for line in self._agent.audit.follow(since):
                await response.write(line.encode() + b"\n")
        return response

    async def password(self, request: web.Request) -> web.Response:
        message = PasswordRequest.model_validate_json(await request.read())
        in_force = self._agent.in_force
        if in_force is None or message.user not in in_force.infrastructure.users:
            raise web.HTTPNotFound(reason="no such user in the declaration in force")
        declared = in_force.infrastructure.users[message.user]
        made = await asyncio.to_thread(hash_password, message.password)
        self._agent.store.set_password(message.user, declared.uid, made, declared.password_hash)
        self._agent.audit.record(
            Event.PASSWORD, Severity.NOTICE, f"the password of {message.user} was set", user=message.user
        )
        return web.json_response({"user": message.user})

    async def console(self, request: web.Request) -> web.Response:
        vm = request.query.get("vm", "")
        self._known(vm)
        return web.json_response({"vm": vm, "untrusted_text": self._agent.consoles.untrusted_text(vm)})

    async def inspect(self, request: web.Request) -> web.Response:
        message = InspectRequest.model_validate_json(await request.read())
        names = [message.vm] if message.vm is not None else [vm.name for vm in self._agent.wanted_vms()]
        looks = []
        for name in names:
            self._known(name)
            look = await self._agent.introspection.look(name)
            looks.append({"state": self._agent.introspection.state_of(name), "look": look_json(look)})
        return web.json_response({"looks": looks})

    async def release(self, request: web.Request) -> web.Response:
        message = ReleaseRequest.model_validate_json(await request.read())
        try:
            await self._agent.introspection.release(message.vm, message.reason, peer_at(request).name)
        except ReleaseError as error:
            return web.json_response({"released": False, "reason": str(error)})
        return web.json_response({"released": True})

    async def attachment(self, request: web.Request) -> web.Response:
        vm = self._known(AttachmentRequest.model_validate_json(await request.read()).vm)
        self._record_access(request, vm, "looks into the memory of")
        try:
            return web.json_response(await self._agent.evidence.attachment(vm, self._agent.guests.images))
        except VmmError as error:
            return problem(502, str(error))

    async def evidence(self, request: web.Request) -> web.StreamResponse:
        return await self._conversation(request, self._evidence)

    async def _evidence(self, request: web.Request, socket_: web.WebSocketResponse, untrusted_first: str) -> _Message:
        message = EvidenceMessage.model_validate_json(untrusted_first)
        if self._agent.in_force is None or message.vm not in {v.name for v in self._agent.in_force.node_plan.vms}:
            return {"error": f"there is no VM {message.vm!r} on this node"}
        vm, evidence, images = self._known(message.vm), self._agent.evidence, self._agent.guests.images
        self._record_access(request, vm, "saves the memory of")
        try:
            async with evidence.held(vm.name, message.pause):
                look = await self._agent.introspection.look(vm.name)
                told = {
                    "attachment": await evidence.attachment(vm, images),
                    "look": look_json(look),
                    "state": self._agent.introspection.state_of(vm.name),
                    "node": self._agent.paths.node,
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "paused": message.pause,
                    "images": {"digest": images.digest, "kernel_release": images.kernel_release},
                }
                await socket_.send_json(told)
                untrusted_second = await _first(socket_, SAVE_SECONDS)
        except VmmError as error:
            return {"error": str(error)}
        manifest = ManifestMessage.model_validate_json(untrusted_second).manifest
        return {"signature": evidence.sign(manifest.encode()), "key": evidence.public_key, "namespace": NAMESPACE}

    def _record_access(self, request: web.Request, vm: Vm, what: str) -> None:
        peer = peer_at(request)
        text = f"{peer.name} {what} {vm.name}"
        self._agent.audit.record(Event.ADMIN_EXEC, Severity.NOTICE, text, vm=vm.name, uid=peer.uid)

    def _known(self, name: str) -> Vm:
        vms = self._agent.in_force.node_plan.vms if self._agent.in_force is not None else ()
        found = next((vm for vm in vms if vm.name == name), None)
        if found is None:
            raise web.HTTPNotFound(reason=f"there is no VM {name[:64]!r} on this node")
        return found

    async def login(self, request: web.Request) -> web.StreamResponse:
        return await self._conversation(request, self._login)

    async def execute(self, request: web.Request) -> web.StreamResponse:
        return await self._conversation(request, self._execute)

    async def _conversation(
        self, request: web.Request, act: Callable[[web.Request, web.WebSocketResponse, str], Awaitable[_Message]]
    ) -> web.StreamResponse:
        """A WebSocket whose first message says what is asked and whose last one says how it ended."""
        peer = peer_at(request)
        socket_ = web.WebSocketResponse(max_msg_size=MAX_MESSAGE)
        await socket_.prepare(request)
        end: _Message
        try:
            end = await act(request, socket_, await _first(socket_))
        except DeniedError:
            end = {"error": "login denied", "denied": True}
        except CommunityNeededError as error:
            end = {"choose": list(error.choices), "why": str(error)}
        except ChannelError as error:
            end = {"error": str(error)}
        except (ValueError, TimeoutError) as error:
            end = {"error": self._gate.malformed(peer, request.path, error)}
        except ConnectionError:
            return socket_  # nobody is there any more
        except Exception:
            end = {"error": self._gate.failed(peer, request.path)}
        with contextlib.suppress(ConnectionError):
            await socket_.send_json(end)
            await socket_.close()
        return socket_

    async def _login(self, request: web.Request, socket_: web.WebSocketResponse, untrusted_first: str) -> _Message:
        message = LoginMessage.model_validate_json(untrusted_first)
        in_force = self._agent.in_force
        if in_force is None:
            return {"error": "nothing is up: no declaration is in force"}
        user, entered = await self._agent.logins.authenticate(
            in_force.infrastructure,
            LoginRequest(peer_at(request).uid, message.user, message.password, message.community),
        )
        now = self._agent.in_force
        if now is None or now.infrastructure.users.get(user) != in_force.infrastructure.users[user]:
            raise DeniedError("the declaration changed during the login")  # it may be another person's name by now
        async with self._agent.session(user, entered, "login") as session:
            await socket_.send_json({"session": session.id, "community": entered.community, "vm": session.vm})
            command = f"exec /usr/lib/vinci/app-session {user}{_words(message.command)}"
            return await self._run(request, socket_, session.vm, command, message.terminal)

    async def _execute(self, request: web.Request, socket_: web.WebSocketResponse, untrusted_first: str) -> _Message:
        message = ExecMessage.model_validate_json(untrusted_first)
        in_force = self._agent.in_force
        if in_force is None or message.vm not in {vm.name for vm in in_force.node_plan.vms}:
            return {"error": f"there is no VM {message.vm!r} on this node"}
        self._agent.audit.record(
            Event.ADMIN_EXEC,
            Severity.NOTICE,
            f"an administrator ran a command in {message.vm}: {' '.join(message.command)}",
            vm=message.vm,
            uid=peer_at(request).uid,
        )
        return await self._run(request, socket_, message.vm, _words(message.command).strip(), message.terminal)

    async def _run(
        self,
        request: web.Request,
        socket_: web.WebSocketResponse,
        vm: str,
        command: str,
        terminal: TerminalRequest | None,
    ) -> _Message:
        peer = peer_at(request)
        try:
            return {"exit": await relay(socket_, self._agent.guests.channel(vm), command, _terminal(terminal))}
        except ChannelError as error:
            self._gate.not_done(peer, vm, error)
            raise


def _terminal(request: TerminalRequest | None) -> Terminal | None:
    return Terminal(request.kind, request.columns, request.rows) if request else None


def _words(command: list[str] | None) -> str:
    """A command's words for the guest's shell, which must see exactly these words."""
    return "".join(" " + shlex.quote(word) for word in command or ())


async def _first(socket_: web.WebSocketResponse, seconds: float = FIRST_MESSAGE_SECONDS) -> str:
    try:
        message = await socket_.receive(timeout=seconds)
    except TimeoutError:
        raise ValueError(f"no message came within {seconds:.0f} s") from None
    if message.type is not WSMsgType.TEXT:
        raise ValueError("the message has to be text")
    return str(message.data)
