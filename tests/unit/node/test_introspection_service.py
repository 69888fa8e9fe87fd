# SPDX-License-Identifier: GPL-2.0-or-later
"""What follows when a VM is found compromised: its incident, what is recorded, the response, its release."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vinci.introspect.findings import Check, CheckResult, Finding, Look, Severity, Verdict
from vinci.model.infrastructure import Response
from vinci.node.agent import SWEEP, Agent
from vinci.node.audit import Audit
from vinci.node.introspection.incidents import MAX_FINDINGS, Incidents
from vinci.node.introspection.service import IntrospectionService, ReleaseError
from vinci.node.paths import NodePaths
from vinci.plan.types import Vm, VmKind
from vinci.store.sqlite import Store
from vinci.vmm.host import VmHost
from vinci.vmm.instance import Instance

VM = Vm("sales-1", VmKind.APP, "sales", None, 64, 100, (), (), None, None, Response.QUARANTINE)


class Rig:
    """A service whose VMs and responses the test plays."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "node.db")
        self.incidents = Incidents(self.store)
        self.instance: Instance | None = None
        self.responses: list[str] = []
        self.go_on = asyncio.Event()
        self._audit = folder / "audit.jsonl"

        async def respond(vm: Vm, response: Response) -> None:
            self.responses.append(f"{vm.name} {response}")
            await self.go_on.wait()

        async def lift(vm: str) -> None:
            self.responses.append(f"{vm} lifted")

        self.service = IntrospectionService(
            cast(NodePaths, SimpleNamespace(root=folder)),
            cast(VmHost, SimpleNamespace(instance=lambda name: self.instance)),
            cast(Any, SimpleNamespace(digest="images")),
            Audit(self._audit),
            self.incidents,
            lambda: {VM.name: VM},
            lambda name: None,
            respond,
            lift,
            lambda vm: (),
        )

    def finds(self, *what: str, error: str | None = None) -> None:
        found = tuple(Finding(Check.HOOKS, text, "here") for text in what)
        note = Finding(Check.HOOKS, "of no weight", "", Severity.NOTE)
        row = CheckResult(Check.HOOKS, 1, 1.0, (*found, note), error)
        self.service._found(VM.name, Look(VM.name, Verdict.COMPROMISED, (row,), 1.0))

    @property
    def told(self) -> list[str]:
        records = map(json.loads, self._audit.read_text().splitlines())
        return [record["message"] for record in records if record["event"] == "vm-compromised"]

    @property
    def findings(self) -> list[str]:
        return [finding["what"] for finding in cast(Any, self.service.state_of(VM.name)["incident_findings"])]


def _run(folder: Path, work: Callable[[Rig], Awaitable[None]]) -> None:
    async def run() -> None:
        rig = Rig(folder)
        try:
            await work(rig)
        finally:
            rig.store.close()

    asyncio.run(run())


def test_an_incident_is_open_and_told_before_its_response_ended(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        rig.finds("a hook")
        assert rig.incidents.vms == {VM.name}
        assert rig.told == ["VM sales-1 is compromised: a hook (here); response: quarantine"]
        await asyncio.sleep(0)
        assert rig.responses == ["sales-1 quarantine"]
        rig.go_on.set()

    _run(tmp_path, work)


def test_what_is_found_later_is_told_once_and_kept(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        rig.finds("a hook")
        rig.finds("a hook", "a module")
        rig.finds("a module", error="too long a list")
        assert rig.told[1:] == [
            "VM sales-1 is compromised in more ways: a module (here)",
            "VM sales-1 is compromised in more ways: kernel-hooks failed: too long a list",
        ]
        everything = ["a hook", "a module", "kernel-hooks failed: too long a list"]
        assert rig.findings == everything  # though no look shows them now
        rig.incidents = Incidents(rig.store)
        assert [finding["what"] for finding in rig.incidents.findings(VM.name)] == everything
        rig.go_on.set()
        await asyncio.sleep(0)
        assert rig.responses == ["sales-1 quarantine"]

    _run(tmp_path, work)


def test_a_guest_that_makes_up_ever_new_findings_fills_no_disk(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        for number in range(MAX_FINDINGS):
            rig.finds(*(f"hook {number}.{part}" for part in range(3)))
        assert len(rig.findings) == MAX_FINDINGS
        assert rig.findings[-1] == "more was found than is kept"
        assert len(rig.told) == -(-MAX_FINDINGS // 3)
        rig.go_on.set()

    _run(tmp_path, work)


def test_findings_of_another_version_do_not_keep_the_agent_from_starting(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        rig.finds("a hook")
        rig.store._db.execute("update incident set findings = '[{}]'")
        assert Incidents(rig.store).vms == {VM.name}
        rig.go_on.set()

    _run(tmp_path, work)


def test_a_vm_that_runs_is_released_only_when_it_was_looked_at(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        rig.go_on.set()
        rig.finds("a hook")
        rig.instance = Instance(1, 2)
        rig.service._vms = dict  # it is not swept over: nothing is known of it
        rig.service._sweep._wanted = dict
        assert rig.service.state_of(VM.name)["releasable"] is False
        with pytest.raises(ReleaseError, match="it runs"):
            await rig.service.release(VM.name, "mended", "root")
        assert rig.incidents.vms == {VM.name}
        rig.instance = None
        assert rig.service.state_of(VM.name)["releasable"] is True
        await rig.service.release(VM.name, "mended", "root")
        assert not rig.incidents.vms
        assert rig.responses == ["sales-1 quarantine", "sales-1 lifted"]

    _run(tmp_path, work)


def test_a_release_waits_for_the_end_of_the_response(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        rig.finds("a hook")
        release = asyncio.create_task(rig.service.release(VM.name, "mended", "root"))
        await asyncio.sleep(0.05)
        assert rig.incidents.vms == {VM.name}
        rig.go_on.set()
        await release
        assert rig.responses == ["sales-1 quarantine", "sales-1 lifted"]

    _run(tmp_path, work)


def test_the_agent_starts_a_sweep_that_ended_again(tmp_path: Path) -> None:
    async def work() -> None:
        ends, starts, woken = asyncio.Event(), [], asyncio.Event()

        async def sweep() -> None:
            starts.append(1)
            await ends.wait()
            raise RuntimeError("a defect")

        agent = SimpleNamespace(
            _watchers={}, _wake=woken, introspection=SimpleNamespace(run=sweep), audit=Audit(tmp_path / "audit.jsonl")
        )
        for _ in range(2):
            Agent._keep_sweeping(cast(Agent, agent))
            await asyncio.sleep(0)
        assert len(starts) == 1
        ends.set()
        await woken.wait()
        ends.clear()
        Agent._keep_sweeping(cast(Agent, agent))
        await asyncio.sleep(0)
        assert len(starts) == 2
        assert "a defect" in (tmp_path / "audit.jsonl").read_text()
        agent._watchers[SWEEP].cancel()

    asyncio.run(work())
