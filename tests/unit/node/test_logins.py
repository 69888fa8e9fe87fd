# SPDX-License-Identifier: GPL-2.0-or-later
"""Authentication: attempts at the same moment count like attempts one after the other."""

import asyncio
import json
from pathlib import Path
from typing import cast

from vinci.model.load import parse
from vinci.node.audit import Audit
from vinci.node.authenticate import FAILURES_ALLOWED, DeniedError, FailureLimit
from vinci.node.grants import Grants
from vinci.node.guests import Guests
from vinci.node.sessions import LoginRequest, Logins
from vinci.plan.types import Vm
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


def test_who_guesses_locks_out_himself_and_not_the_user() -> None:
    limit = FailureLimit()
    for _ in range(FAILURES_ALLOWED):
        limit.failed(1001, "sally", 0.0)
    assert limit.blocked(1001, "sally", 0.0)
    assert not limit.blocked(0, "sally", 0.0)
    assert not limit.blocked(1001, "sven", 0.0)
