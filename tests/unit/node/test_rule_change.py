# SPDX-License-Identifier: GPL-2.0-or-later
"""What ends goes everywhere before anything comes, and a change that one guest refuses is taken back by all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from vinci.model.infrastructure import Response
from vinci.node.audit import Audit
from vinci.node.channel import ChannelError
from vinci.node.guests import Guests
from vinci.node.rule_change import RulesRefusedError, Steps, change_rules
from vinci.plan.types import Vm, VmKind
from vinci.vmm.host import VmmError


@dataclass
class Rooms:
    """Guests that note what they are given, in the order in which it comes; one may refuse something."""

    refuses: tuple[str, bytes] | None = None
    given: list[tuple[str, bytes]] = field(default_factory=list)
    in_force: dict[str, bytes] = field(default_factory=dict)
    settled: list[set[bytes]] = field(default_factory=list)
    """What was in force when what rests on the old rules was ended."""
    unsettled: VmmError | None = None

    async def settle(self) -> None:
        self.settled.append(set(self.in_force.values()))
        if self.unsettled:
            raise self.unsettled

    def channel(self, vm: str) -> Any:
        rooms = self

        class Channel:
            async def check(self, _command: str, stdin: bytes, *, seconds: float) -> None:
                await asyncio.sleep(0)
                assert seconds > 0
                if rooms.refuses == (vm, stdin):
                    raise ChannelError(f"VM {vm} refused")
                rooms.given.append((vm, stdin))
                rooms.in_force[vm] = stdin

        return Channel()


def steps(name: str, between: bool = True) -> Steps:
    vm = Vm(name, VmKind.FW, "a", None, 128, 100, (), (), None, None, Response.ALERT)
    return Steps(vm, [("rules", b"old")], [("rules", b"common")] if between else [], [("rules", b"new")])


CHANGES = [steps("first"), steps("second"), steps("third", between=False)]


def change(rooms: Rooms, tmp_path: Path) -> str:
    async def run() -> None:
        await change_rules(cast(Guests, rooms), Audit(tmp_path / "audit.jsonl"), CHANGES, rooms.settle)

    rooms.in_force = {each.vm.name: b"old" for each in CHANGES}
    asyncio.run(run())
    return (tmp_path / "audit.jsonl").read_text()


def test_all_lose_before_any_gains(tmp_path: Path) -> None:
    rooms = Rooms()
    said = change(rooms, tmp_path)
    assert {name for name, text in rooms.given[:2] if text == b"common"} == {"first", "second"}
    assert {name for name, text in rooms.given[2:] if text == b"new"} == {"first", "second", "third"}
    assert set(rooms.in_force.values()) == {b"new"}
    assert rooms.settled == [{b"common", b"old"}]  # the third has nothing to lose
    assert said.index("first lost the rights that end") < said.index("third got new rules")


@pytest.mark.parametrize(
    ("vm", "step"),
    [("first", b"common"), ("second", b"common"), ("first", b"new"), ("second", b"new"), ("third", b"new")],
)
def test_what_one_refuses_is_in_force_nowhere(vm: str, step: bytes, tmp_path: Path) -> None:
    rooms = Rooms(refuses=(vm, step))
    with pytest.raises(RulesRefusedError, match=f"VM {vm} refused"):
        change(rooms, tmp_path)
    assert set(rooms.in_force.values()) == {b"old"}
    if step == b"common":
        assert b"new" not in {text for _name, text in rooms.given}
        assert not rooms.settled


def test_where_something_goes_on_that_must_have_ended_nothing_new_comes(tmp_path: Path) -> None:
    rooms = Rooms(unsettled=VmmError("VM staff-1 cannot be stopped"))
    with pytest.raises(RulesRefusedError, match="those before stay in force: VM staff-1 cannot be stopped"):
        change(rooms, tmp_path)
    assert set(rooms.in_force.values()) == {b"old"}
    assert b"new" not in {text for _name, text in rooms.given}


def test_a_guest_that_cannot_go_back_is_named(tmp_path: Path) -> None:
    class Dead(Rooms):
        def channel(self, vm: str) -> Any:
            if vm == "second":
                raise ChannelError("VM second does not answer")
            return super().channel(vm)

    with pytest.raises(RulesRefusedError, match=r"not taken back yet.*VM second does not answer"):
        change(Dead(), tmp_path)
