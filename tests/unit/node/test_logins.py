# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins: guesses are bounded, also at the same moment, and whoever does not come in leaves a record of the reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import pytest

from vinci.model.load import parse
from vinci.node.audit import Audit
from vinci.node.authenticate import FAILURES_ALLOWED, MAX_PASSWORD, DeniedError, FailureLimit
from vinci.node.budget import BURST
from vinci.node.channel import ChannelError
from vinci.node.grants import Grants
from vinci.node.guests import Guests
from vinci.node.sessions import LoginRequest, Logins
from vinci.plan.compile import compile_plan
from vinci.plan.types import Vm
from vinci.policy.login import Entrance
from vinci.store.sqlite import Store

EXAMPLE = Path(__file__).parents[3] / "examples" / "hospital.yaml"


async def _no_vm(_vm: Vm) -> None:
    raise AssertionError("authentication needs no VM")


def test_many_guesses_at_once_are_no_more_than_the_limit(tmp_path: Path) -> None:
    infrastructure = parse(EXAMPLE.read_bytes(), str(EXAMPLE)).infrastructure

    async def guess() -> None:
        store, audit = Store(tmp_path / "node.db"), Audit(tmp_path / "audit.jsonl")
        logins = Logins("n1", store, cast(Guests, None), cast(Grants, None), audit, _no_vm, _no_vm)
        guesses = (logins.authenticate(infrastructure, LoginRequest(0, "sally", f"wrong {n}", None)) for n in range(30))
        results = await asyncio.gather(*guesses, return_exceptions=True)
        assert all(isinstance(result, DeniedError) for result in results)
        store.close()

    asyncio.run(guess())
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    # two hashes are made at once, so one more guess may be under way when the last allowed one fails
    assert reasons.count("wrong password") <= FAILURES_ALLOWED + 1
    assert len(reasons) == 30


class _HostileGuests:
    """APP-VMs whose answers the channel cuts off."""

    def channel(self, vm: str) -> _HostileGuests:
        return self

    async def check(self, command: str, *_: object) -> None:
        if "app-login" in command:
            raise ChannelError("VM doctors-1: `app-login` said more than 1048576 bytes and was cut off")


class _NoGrants:
    async def deliver_all(self) -> list[str]:
        return []


async def _no_effort(_vm: Vm) -> None:
    """The VM runs."""


def _entered(folder: Path, confined: Collection[str] = ()) -> tuple[BaseException, list[dict[str, Any]]]:
    """How a login of anna to the doctors ends, and what the audit has of it."""
    plan = compile_plan(parse(EXAMPLE.read_bytes(), str(EXAMPLE)).infrastructure)

    async def enter() -> BaseException:
        store, audit = Store(folder / "node.db"), Audit(folder / "audit.jsonl")
        guests, grants = cast(Guests, _HostileGuests()), cast(Grants, _NoGrants())
        logins = Logins("n1", store, guests, grants, audit, _no_effort, _no_effort, lambda: confined)
        try:
            await logins.open(plan, plan.nodes[0], "anna", Entrance("doctors"), "login")
        except (ChannelError, DeniedError) as error:
            return error
        finally:
            store.close()
        raise AssertionError("a hostile guest let anna in")

    error = asyncio.run(enter())
    return error, [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def test_why_a_guest_let_a_user_not_in_is_recorded(tmp_path: Path) -> None:
    error, (failed, _logout) = _entered(tmp_path)
    assert isinstance(error, ChannelError)
    assert (failed["event"], failed["user"], failed["vm"]) == ("operation-failed", "anna", "doctors-1")
    assert "was cut off" in failed["message"]


def test_the_refusal_of_a_compromised_vm_is_told_and_recorded(tmp_path: Path) -> None:
    error, (denied,) = _entered(tmp_path, ["doctors-1"])
    assert isinstance(error, ChannelError)
    assert (denied["event"], denied["user"], denied["reason"]) == ("login-denied", "anna", str(error))
    assert "is compromised" in denied["reason"]


def test_a_flood_of_wrong_logins_leaves_the_audit_to_others(tmp_path: Path) -> None:
    infrastructure = parse(EXAMPLE.read_bytes(), str(EXAMPLE)).infrastructure

    async def guess() -> None:
        store, audit = Store(tmp_path / "node.db"), Audit(tmp_path / "audit.jsonl")
        logins = Logins("n1", store, cast(Guests, None), cast(Grants, None), audit, _no_vm, _no_vm)
        long = "x" * (MAX_PASSWORD + 1)  # refused before a hash is made
        for asker in [1001] * (BURST + 50) + [1002]:
            with pytest.raises(DeniedError):
                await logins.authenticate(infrastructure, LoginRequest(asker, "nobody", long, None))
        store.close()

    asyncio.run(guess())
    askers = [json.loads(line)["uid"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert askers.count(1001) < BURST + 20
    assert askers[-1] == 1002


def test_who_guesses_locks_out_himself_and_not_the_user() -> None:
    limit = FailureLimit()
    for _ in range(FAILURES_ALLOWED):
        limit.failed(1001, "sally", 0.0)
    assert limit.blocked(1001, "sally", 0.0)
    assert not limit.blocked(0, "sally", 0.0)
    assert not limit.blocked(1001, "sven", 0.0)
