# SPDX-License-Identifier: GPL-2.0-or-later
"""What `vinci verify` makes of measurements, also of those that could not be made: what is not known never matches."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree as ET

import pytest

from vinci.cli.junit import junit_xml
from vinci.model.infrastructure import Infrastructure, Protocol
from vinci.model.load import parse
from vinci.node.authenticate import DeniedError
from vinci.node.channel import Channel, ChannelError
from vinci.node.verification import run
from vinci.node.verification.checks import Check, Kind, Measured
from vinci.node.verification.evidence import printable_lines
from vinci.node.verification.files import FileSubject, measure_files
from vinci.node.verification.network import Endpoint, Measurement, measure_all, reach_checks
from vinci.plan.compile import compile_plan
from vinci.plan.types import VmKind
from vinci.policy.expected import Place

TEXT = """
vinci: 1
name: shop
labels: {levels: [plain]}
communities:
  sales: {label: {level: plain}, network: 10.1.0.0/24, app_vms: {count: 2}}
  store: {label: {level: plain}, network: 10.2.0.0/24}
users:
  sam: {uid: 20001, communities: {sales: {local_uid: 1500}}}
  tom: {uid: 20002, communities: {store: {}}}
file_servers: {files: {}}
shares:
  papers: {server: files, label: {level: plain}, mount: /papers, access: {sales: [execute], store: [write]}}
services:
  alarm: {protocol: udp, port: 5514}
flows:
  - {from: sales, to: store, service: alarm, direction: one-way}
nodes: {n1: {}}
"""
PORTS = {Protocol.TCP: (22,), Protocol.UDP: (111, 5514)}
SALES, STORE = Place("sales", None, False), Place("store", None, False)
FROM, TO = Endpoint("sales-1", SALES, "sales", "10.1.0.10"), Endpoint("store-1", STORE, "store", "10.2.0.10")


@pytest.fixture(scope="module")
def shop() -> Infrastructure:
    return parse(TEXT.encode(), "shop.yaml").infrastructure


def _reach(shop: Infrastructure, source: Measurement, target: Measurement) -> dict[str, Check]:
    checks = reach_checks(shop, [FROM], [TO], PORTS, {"sales-1": source, "store-1": target})
    return {check.action: check for check in checks}


NOTHING = Measurement({}, ())
CLOSED = Measurement({"10.2.0.10/22": "no"}, ())


def test_a_datagram_counts_where_it_arrives(shop: Infrastructure) -> None:
    found = _reach(shop, CLOSED, Measurement({}, {("10.1.0.10", "10.2.0.10", 5514)}))
    assert all(check.matches for check in found.values())
    lost = _reach(shop, CLOSED, NOTHING)
    assert not lost["udp/5514"].matches
    leaked = _reach(shop, CLOSED, Measurement({}, {("10.1.0.10", "10.2.0.10", port) for port in PORTS[Protocol.UDP]}))
    assert leaked["udp/111"].message.endswith("declared no, measured yes")
    others = _reach(shop, CLOSED, Measurement({}, {("10.1.0.11", "10.2.0.10", 5514), ("10.1.0.10", "10.2.0.1", 5514)}))
    assert not others["udp/5514"].matches


def test_what_a_vm_did_not_take_part_in_is_unknown_and_tells_why(shop: Infrastructure) -> None:
    mute = _reach(shop, Measurement({}, (), mute="VM sales-1 does not answer"), NOTHING)
    assert {check.measured for check in mute.values()} == {Measured.UNKNOWN}
    assert all("VM sales-1 does not answer" in check.message and not check.matches for check in mute.values())
    deaf = _reach(shop, CLOSED, Measurement({}, (), deaf="VM store-1 does not answer"))
    assert [action for action, check in deaf.items() if check.matches] == ["tcp/22"]
    assert "VM store-1 does not answer" in deaf["udp/111"].message


class Guest:
    """A VM's end of the channel: what it says to each of the three steps, or an error."""

    def __init__(self, *said: str | ChannelError) -> None:
        self.said = list(said)
        self.asked: list[str] = []

    async def check(self, command: str, stdin: bytes, seconds: float) -> Any:
        self.asked.append(command)
        said = self.said.pop(0)
        if isinstance(said, ChannelError):
            raise said
        return SimpleNamespace(text=said)


def test_one_vm_that_fails_keeps_no_other_from_being_measured() -> None:
    good = Guest("", "10.2.0.10/22\tno\nrubbish\n10.2.0.10/22\tno\tno\n", "10.2.0.10 10.1.0.10 111\nx y z\n")
    bad = Guest(*[ChannelError("VM store-1 does not answer")] * 3)
    channels = cast(dict[str, Channel], {"sales-1": good, "store-1": bad})
    steps: list[int] = []
    measured = asyncio.run(measure_all(channels, [FROM, TO], PORTS, lambda: steps.append(1)))
    assert measured["sales-1"] == Measurement({"10.2.0.10/22": "no"}, {("10.2.0.10", "10.1.0.10", 111)})
    assert measured["store-1"].mute == measured["store-1"].deaf == "VM store-1 does not answer"
    assert good.asked[1] == "bash -s 6 10.2.0.10/22 -- 10.2.0.10/111 10.2.0.10/5514"
    assert len(steps) == 2


SAM = FileSubject("sam", "sales", "sales-1", 1500, 60000, (("papers", "10.1.0.2:/papers"),))


def test_execution_is_measured_beside_reading_and_writing(shop: Infrastructure) -> None:
    guest = Guest("papers\tyes\tno\tno\tyes\n")
    checks = asyncio.run(measure_files(shop, SAM, cast(Channel, guest)))
    assert {check.action: check.measured.value for check in checks} == {
        "read": "yes", "append": "no", "write": "no", "execute": "yes",
    }  # fmt: skip
    assert all(check.matches for check in checks)
    checks = asyncio.run(measure_files(shop, SAM, cast(Channel, Guest("papers\tyes\tno\tno\tno\n"))))
    assert [check.action for check in checks if not check.matches] == ["execute"]


def test_files_are_unknown_where_nobody_could_try(shop: Infrastructure) -> None:
    for guest, reason in ((Guest(ChannelError("it ended")), ""), (None, "it ended")):
        checks = asyncio.run(measure_files(shop, SAM, cast(Channel | None, guest), reason))
        assert len(checks) == 4
        assert all(check.measured is Measured.UNKNOWN and "it ended" in check.message for check in checks)


class Agent(SimpleNamespace):
    """What verify asks of the agent; `also` is a VM that runs and that no plan names."""

    def __init__(self, also: str | None = None, **given: Any) -> None:
        super().__init__(**given, verifying=asyncio.Lock())
        self._also = also

    async def running(self) -> dict[str, object]:
        return {self._also: None} if self._also else {}


def test_who_and_what_is_measured_comes_from_the_model_and_not_from_the_plan(shop: Infrastructure) -> None:
    plan = compile_plan(shop)
    (node,) = plan.nodes
    forgetful = replace(node, vms=tuple(vm for vm in node.vms if vm.name not in ("files", "sales-2")))
    in_force = cast(Any, SimpleNamespace(infrastructure=shop, node_plan=forgetful))
    subject = run._subject(in_force, "sam", "sales", "sales-1")
    assert subject.local_uid == 1500
    assert subject.sources == (("papers", f"{run.NOWHERE}:/papers"),)
    reachable = {vm.name for vm in node.vms} - {"files", "sales-2"}
    agent = cast(Any, Agent(wanted_vms=lambda: forgetful.vms, reachable=reachable, also="somebodys"))
    machines = asyncio.run(run._machines(agent, in_force))
    assert [check.subject for check in machines if not check.matches] == ["files", "sales-2", "somebodys"]
    assert len(machines) == 7


def test_what_a_vm_may_reach_is_not_asked_of_the_plan(shop: Infrastructure) -> None:
    """A plan that takes a VM for another community's must not be right by its own words."""
    places = run.declared_places(shop)
    (node,) = compile_plan(shop).nodes
    assert places.keys() == {vm.name for vm in node.vms}
    for vm in node.vms:
        file_server = vm.name if vm.kind is VmKind.FS else None
        assert places[vm.name] == Place(vm.community, file_server, vm.kind is VmKind.FW)


def test_a_second_verification_waits_for_the_first() -> None:
    """Both listen on the same ports of the same VMs."""

    async def measure() -> list[str]:
        agent, events = Agent(in_force=None), list[str]()

        async def second() -> None:
            with pytest.raises(ChannelError):
                await run.verify(cast(Any, agent), lambda _: None)
            events.append("second")

        async with asyncio.TaskGroup() as group, agent.verifying:
            group.create_task(second())
            for _ in range(10):
                await asyncio.sleep(0)
            events.append("first")
        return events

    assert asyncio.run(measure()) == ["first", "second"]


def test_a_member_whom_the_plan_forgot_is_a_mismatch_with_a_bundle_and_a_report(
    shop: Infrastructure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep(_agent: object, _checks: object) -> Path:
        return tmp_path

    class Refused:
        async def __aenter__(self) -> None:
            raise DeniedError("sam is not in community sales")

        async def __aexit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(run, "keep_evidence", keep)
    (node,) = compile_plan(shop).nodes
    agent = Agent(
        in_force=SimpleNamespace(infrastructure=shop, node_plan=node),
        wanted_vms=list,
        reachable=(),
        session=lambda *_: Refused(),
    )
    found = cast(Any, asyncio.run(run.verify(cast(Any, agent), lambda _: None)))
    assert found["bundle"] == str(tmp_path)
    told = [each["message"] for each in found["mismatches"] if each["kind"] == Kind.FILES.value]
    assert len(told) == 8
    assert all("cannot log in: sam is not in community sales" in text for text in told[:4])
    failed = ET.fromstring(junit_xml(found)).get("failures")
    assert failed == str(len(found["mismatches"]))


def test_a_guests_words_in_the_bundle_do_nothing_to_a_terminal() -> None:
    assert printable_lines("a\x1b[2J\nb\r\n") == "a\N{REPLACEMENT CHARACTER}[2J\nb\n"
