# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins: from a name and a password to a user's session in an APP-VM, and back to nothing when it ends.

A session's order of events: authenticate, choose the community, find or make the APP-VM, record the session, let the
FS-VMs know the pair (address, UID), make the account and its mounts. Its end takes the pair away first.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from vinci.model.infrastructure import Infrastructure
from vinci.node.audit import Audit, Event, Severity
from vinci.node.authenticate import (
    DeniedError,
    FailureLimit,
    verify_password,
)
from vinci.node.channel import ChannelError
from vinci.node.denials import Denials
from vinci.node.grants import Grants
from vinci.node.guests import Guests
from vinci.plan.accounts import account_table
from vinci.plan.types import NodePlan, Plan, Vm, VmKind
from vinci.policy.login import (
    Circumstances,
    CommunityNeededError,
    Entrance,
    NotMemberError,
    entrance,
)
from vinci.store.sqlite import Session, Store

LOGIN_SECONDS = 60.0
HASHES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """What somebody who wants to log in said; `asker` is the UID that said it, as the kernel tells."""

    asker: int
    untrusted_user: str
    untrusted_password: str
    untrusted_community: str | None


class Logins:
    """Opens and closes sessions on one node."""

    def __init__(
        self,
        node: str,
        store: Store,
        guests: Guests,
        grants: Grants,
        audit: Audit,
        ensure_vm: Callable[[Vm], Awaitable[None]],
        release_vm: Callable[[Vm], Awaitable[None]],
        confined: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """`confined`: gives the VMs in quarantine, which nobody enters."""
        self._node = node
        self._store = store
        self._guests = guests
        self._grants = grants
        self._audit = audit
        self._denials = Denials(audit)
        self._ensure_vm = ensure_vm
        self._release_vm = release_vm
        self._confined = confined
        self._limit = FailureLimit()
        self._hashing = asyncio.Semaphore(HASHES_AT_ONCE)
        self._unfinished: set[tuple[str, str]] = set()
        self._accounts: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def authenticate(self, infrastructure: Infrastructure, request: LoginRequest) -> tuple[str, Entrance]:
        """The user and the community that a request proves.

        Raises:
            DeniedError: it proves nothing; the reason is recorded, the asker is not told.
            CommunityNeededError: the password is right, the community has to be named.
        """
        user = request.untrusted_user if request.untrusted_user in infrastructure.users else None
        stored = None
        if user is not None:
            declared = infrastructure.users[user]
            stored = self._store.password(user, declared.uid, declared.password_hash)
        async with self._hashing:
            # Asked only now: of many attempts at once none slips by before the others' failures are counted.
            blocked = user is not None and self._limit.blocked(request.asker, user, time.monotonic())
            fits = await asyncio.to_thread(verify_password, None if blocked else stored, request.untrusted_password)
            if user is not None and not fits and not blocked:
                self._limit.failed(request.asker, user, time.monotonic())
        if blocked:
            raise self._denied(request.asker, request.untrusted_user, "too many wrong passwords, wait a minute")
        if not fits or user is None:
            raise self._denied(request.asker, request.untrusted_user, "wrong password" if user else "no such user")
        self._limit.passed(request.asker, user)
        where = Circumstances(self._node, datetime.now().astimezone())
        try:
            return user, entrance(infrastructure, user, request.untrusted_community, where)
        except NotMemberError as error:
            raise self._denied(request.asker, user, str(error)) from None

    def _denied(self, asker: int | None, untrusted_user: str, reason: str) -> DeniedError:
        """Record a denial, within the budget of the UID that asked or, once the password was right, of the user."""
        user = untrusted_user[:64]
        whose = user if asker is None else f"UID {asker}"
        self._denials.record(
            (whose,),
            f"logins of {whose}",
            Event.LOGIN_DENIED,
            Severity.WARNING,
            f"login of {user!r} denied: {reason}",
            user=user,
            reason=reason,
            uid=asker,
        )
        return DeniedError(reason)

    async def open(self, plan: Plan, node_plan: NodePlan, user: str, entered: Entrance, purpose: str) -> Session:
        """Make a session of an authenticated user: VM, grant, account, mounts.

        Raises:
            DeniedError: no APP-VM of the community can take the user.
            ChannelError: a VM did not do its part; nothing is left half open.
        """
        community = entered.community
        if not any(member.user == user and member.community == community for member in plan.members):
            raise self._denied(None, user, f"{user} is not in community {community}")  # since a moment ago
        vm = self._choose_vm(node_plan, user, community)
        session = Session(secrets.token_hex(8), user, community, vm.name, time.time(), purpose)
        self._store.open_session(session)
        try:
            await self._ensure_vm(vm)
            errors = await self._grants.deliver_all()
            if errors:
                raise ChannelError(errors[0])
            table = account_table(plan, node_plan, vm, user, community)
            async with self._accounts[vm.name]:
                if not self._store.is_open(session.id):  # its UID may be another's by now
                    raise self._denied(None, user, "the right to enter ended during the login")
                await self._guests.channel(vm.name).check("/usr/lib/vinci/app-login", table.encode(), LOGIN_SECONDS)
            if not self._store.is_open(session.id):
                raise self._denied(None, user, "the right to enter ended during the login")
        except BaseException as error:
            if isinstance(error, ChannelError):
                self._failed(session, error)
            await self.close(node_plan, session)
            self._unfinished.add((vm.name, user))  # an `up` may have closed it before the account was made
            raise
        self._audit.record(
            Event.LOGIN,
            Severity.INFO,
            f"{user} entered {community} on {vm.name} ({purpose}{_by(entered)})",
            user=user,
            community=community,
            vm=vm.name,
            session=session.id,
            login_rule=None if entered.rule is None else entered.rule + 1,
        )
        return session

    def _failed(self, session: Session, error: ChannelError) -> None:
        """Record why a session did not begin; a hostile guest may make every one fail, so within its VM's budget."""
        self._denials.record(
            (session.vm, "failed"),
            f"logins on {session.vm}",
            Event.OPERATION_FAILED,
            Severity.ERROR,
            f"{session.user} could not enter {session.community}: {error}",
            user=session.user,
            community=session.community,
            vm=session.vm,
            session=session.id,
        )

    async def close(self, node_plan: NodePlan, session: Session) -> None:
        """End a session: its grant first, then its processes and mounts when it was the user's last one there.

        What a VM does not take now is recorded, and tried again at each pass of the reconcile loop. A session that was
        closed before is left alone.
        """
        if not self._store.close_session(session.id):
            return
        self.unfinished(session.vm, session.user)
        self._not_yet(f"revoking {session.user}'s grant", await self._grants.deliver_all())
        self._not_yet(f"ending {session.user}'s processes", await self.finish((session.vm,)))
        others = [s for s in self._store.sessions() if s.vm == session.vm]
        self._left(session)
        vm = next((vm for vm in node_plan.vms if vm.name == session.vm), None)
        if vm is not None and vm.user is not None and not others:
            await self._release_vm(vm)

    async def revoke(self, sessions: Iterable[Session]) -> None:
        """Take the rights on files from several sessions at once; what is left of them in their VMs is unfinished."""
        closed = [session for session in sessions if self._store.close_session(session.id)]
        for session in closed:
            self.unfinished(session.vm, session.user)
        if closed:
            self._not_yet("revoking grants", await self._grants.deliver_all())
        for session in closed:
            self._left(session)

    def _left(self, session: Session) -> None:
        self._audit.record(
            Event.LOGOUT,
            Severity.INFO,
            f"{session.user} left {session.community} on {session.vm}",
            user=session.user,
            community=session.community,
            vm=session.vm,
            session=session.id,
        )

    def _not_yet(self, what: str, errors: Iterable[object]) -> None:
        for error in errors:
            self._audit.record(Event.OPERATION_FAILED, Severity.ERROR, f"{what} (tried again): {error}")

    def unfinished(self, vm: str, user: str) -> None:
        """Note that a user's processes and mounts in a VM have to go unless the user has a session there."""
        self._unfinished.add((vm, user))

    @property
    def has_unfinished(self) -> bool:
        """True while processes or mounts of users without a session may be left in a VM."""
        return bool(self._unfinished)

    def forget_all_but(self, running: Collection[str]) -> None:
        """Only these VMs run: what was left in others is gone with them."""
        self._unfinished = {(vm, user) for vm, user in self._unfinished if vm in running}

    async def finish(self, vms: Collection[str]) -> list[str]:
        """End what is left in these VMs of users who have no session there; the errors of VMs that did not do it."""
        errors, failed = [], set()
        for vm, user in sorted(self._unfinished):
            if vm not in vms or vm in failed:
                continue
            # A login of the same user makes its account before or after this, never in between.
            async with self._accounts[vm]:
                try:
                    if not any(s.vm == vm and s.user == user for s in self._store.sessions()):
                        await self._guests.channel(vm).check(f"/usr/lib/vinci/app-logout {shlex.quote(user)}")
                except ChannelError as error:
                    errors.append(str(error))
                    failed.add(vm)
                else:
                    self._unfinished.discard((vm, user))
        return errors

    def _choose_vm(self, node_plan: NodePlan, user: str, community: str) -> Vm:
        candidates = [vm for vm in node_plan.vms if vm.kind is VmKind.APP and vm.community == community]
        own = [vm for vm in candidates if vm.user in (None, user)]
        if not own:
            raise self._denied(None, user, f"no APP-VM of {community} runs on this node")
        confined = self._confined()
        own = [vm for vm in own if vm.name not in confined]
        if not own:
            reason = f"the APP-VM of {community} is compromised: an administrator has to release it"
            self._denied(None, user, reason)
            raise ChannelError(reason)  # which is no secret: the user is told
        sessions = self._store.sessions()
        for session in sessions:
            if session.user == user and session.community == community:
                return next((vm for vm in own if vm.name == session.vm), own[0])
        load = {vm.name: sum(s.vm == vm.name for s in sessions) for vm in own}
        return min(own, key=lambda vm: load[vm.name])


def _by(entered: Entrance) -> str:
    return "" if entered.rule is None else f", by login rule {entered.rule + 1}"


__all__ = ["CommunityNeededError", "DeniedError", "LoginRequest", "Logins"]
