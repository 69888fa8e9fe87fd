# SPDX-License-Identifier: GPL-2.0-or-later
"""Which (address, UID) pairs the FS-VMs know now: those of the users who are logged in, no others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from vinci.node.channel import ChannelError
from vinci.node.guests import Guests
from vinci.plan.file_tables import subject_table
from vinci.plan.types import NodePlan, VmKind
from vinci.store.sqlite import Session

_LOG = logging.getLogger(__name__)


class Grants:
    """Hands the subject table to the FS-VMs whenever it changes. Each FS-VM gets the whole table, atomically."""

    def __init__(self, guests: Guests, sessions: Callable[[], Sequence[Session]]) -> None:
        self._guests = guests
        self._sessions = sessions
        self._plan: NodePlan | None = None
        self._locks: dict[str, asyncio.Lock] = {}
        self._delivered: dict[str, str] = {}
        self._asked: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        """Up to which call an attempt failed; `_asked` counts the calls."""

    def use(self, plan: NodePlan) -> None:
        """Take tables from this plan from now on."""
        self._plan = plan

    def forget(self, server: str) -> None:
        """The FS-VM was started anew: its table is empty."""
        self._delivered.pop(server, None)

    async def deliver(self, server: str) -> None:
        """Make one FS-VM's table that of the sessions open now.

        Raises:
            ChannelError: the FS-VM did not take it.
        """
        if self._plan is None:
            return
        asked = self._asked[server] = self._asked.get(server, 0) + 1
        async with self._locks.setdefault(server, asyncio.Lock()):
            if asked <= self._failed.get(server, 0):
                # The attempt that ended meanwhile would have delivered this table too: a dead FS-VM is waited for once,
                # however many log out.
                raise ChannelError(f"{server} did not take the table of grants")
            covers = self._asked[server]
            service = next(service for service in self._plan.file_services if service.vm == server)
            table = subject_table(service, self._plan, [(s.vm, s.user, s.community) for s in self._sessions()])
            if self._delivered.get(server) != table:
                self._delivered.pop(server, None)
                try:
                    await self._guests.channel(server).check("/usr/lib/vinci/fs-grants", table.encode())
                except ChannelError:
                    self._failed[server] = covers
                    raise
                self._delivered[server] = table

    async def deliver_all(self) -> list[str]:
        """Make every FS-VM's table that of the open sessions; the errors of those that did not take it."""
        if self._plan is None:
            return []
        servers = [vm.name for vm in self._plan.vms if vm.kind is VmKind.FS]
        results = await asyncio.gather(*(self.deliver(server) for server in servers), return_exceptions=True)
        errors = []
        for result in results:
            if isinstance(result, ChannelError):
                errors.append(str(result))
            elif isinstance(result, Exception):
                _LOG.error("a grant table was not delivered", exc_info=result)
                errors.append(repr(result))
            elif isinstance(result, BaseException):
                raise result
        return errors
