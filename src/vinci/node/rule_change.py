# SPDX-License-Identifier: GPL-2.0-or-later
"""A change of policies and rules in guests that run: what ends goes everywhere before anything comes, and a change
that one guest refuses is taken back by all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from vinci.node.audit import Audit, Event, Severity
from vinci.node.channel import ChannelError
from vinci.node.guests import Guests
from vinci.node.payload import LOAD_POLICY, Payload
from vinci.plan.types import Vm
from vinci.vmm.host import VmmError

DELIVERY_SECONDS = 60.0


class RulesRefusedError(OSError):
    """A guest did not take its new rules; those before are in force again wherever they were replaced."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What one guest gets: `before` is in force, `after` shall be, `between` is common to both (or empty)."""

    vm: Vm
    before: Payload
    between: Payload
    after: Payload


async def give(guests: Guests, vm: str, payload: Payload) -> None:
    """Have a guest run commands in their order.

    Raises:
        ChannelError: one failed, or the guest did not answer.
    """
    for command, stdin in payload:
        if command == LOAD_POLICY:
            guests.given.changes(vm, stdin)
        await guests.channel(vm).check(command, stdin, seconds=DELIVERY_SECONDS)
        if command == LOAD_POLICY:
            guests.given.changed(vm, stdin)


async def change_rules(
    guests: Guests, audit: Audit, changes: Sequence[Steps], settle: Callable[[], Awaitable[None]]
) -> None:
    """Bring every guest to what is common, do what has to be done then, and bring every guest to what is new.

    Raises:
        RulesRefusedError: a guest refused either step, or did not answer; or `settle` failed.
    """
    touched: set[str] = set()

    async def take(steps: Steps, payload: Payload, told: str) -> None:
        touched.add(steps.vm.name)
        await give(guests, steps.vm.name, payload)
        audit.record(Event.RULES_REPLACED, Severity.NOTICE, f"VM {steps.vm.name} {told}", vm=steps.vm.name)

    narrowed = [each for each in changes if each.between]
    errors = await _each(narrowed, lambda each: take(each, each.between, "lost the rights that end"))
    if not errors:
        try:
            await settle()
        except VmmError as error:
            errors = [str(error)]
    if not errors:
        errors = await _each(changes, lambda each: take(each, each.after, "got new rules"))
    if errors:
        back = [each for each in changes if each.vm.name in touched]
        stuck = await _each(back, lambda each: take(each, each.before, "has the rules before again"))
        text = f"the new rules are refused, those before stay in force: {'; '.join(errors)}"
        if stuck:
            text += f"; not taken back yet (tried again): {'; '.join(stuck)}"
        audit.record(Event.OPERATION_FAILED, Severity.ERROR, text)
        raise RulesRefusedError(text)


async def _each(changes: Sequence[Steps], action: Callable[[Steps], Awaitable[None]]) -> list[str]:
    """Do it for all at once and wait for all; the errors."""
    results = await asyncio.gather(*(action(each) for each in changes), return_exceptions=True)
    errors = []
    for result in results:
        if isinstance(result, ChannelError | OSError):
            errors.append(str(result))
        elif isinstance(result, BaseException):
            raise result
    return errors
