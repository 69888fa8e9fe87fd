# SPDX-License-Identifier: GPL-2.0-or-later
"""`vinci metrics`: the state of a node for Prometheus, in its text format (version 0.0.4)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from vinci.cli.client import get, node_paths
from vinci.cli.failure import Status
from vinci.cli.output import run

MIB = 1024 * 1024
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def register(app: typer.Typer) -> None:
    """Add the command of this room."""
    app.command(epilog="Example: vinci metrics > vinci.prom")(metrics)


def metrics(node: Annotated[str | None, typer.Option(help="the node's name, when several run here")] = None) -> None:
    """Print VM states, trust, memory, sessions and denials for Prometheus."""
    run(_metrics(node))


async def _metrics(node: str | None) -> int:
    sys.stdout.write(prometheus_text(await get(node_paths(node), "/v1/status")))
    return Status.DONE


@dataclass(frozen=True, slots=True)
class _Metric:
    """One metric with its samples."""

    name: str
    kind: str
    told: str
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        self.samples.append((labels, value))

    def lines(self, common: Mapping[str, str]) -> Iterator[str]:
        yield f"# HELP {self.name} {self.told}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            told = ",".join(f'{key}="{word.translate(_ESCAPES)}"' for key, word in {**common, **labels}.items())
            yield f"{self.name}{{{told}}} {value:.15g}"


def prometheus_text(report: Mapping[str, Any]) -> str:
    """The metrics in a status report of the agent."""
    declared = _Metric("vinci_declaration_version", "gauge", "Version of the declaration in force; 0: none is.")
    declared.add(report["declaration"]["version"] if report["declaration"] else 0)
    memory = _Metric("vinci_agent_peak_memory_bytes", "gauge", "Most memory that the agent has had.")
    memory.add(report["agent_memory_mib"] * MIB)
    records = _Metric("vinci_audit_records_total", "counter", "Records of the audit since the agent started.")
    for event, number in report["denials"].items():
        records.add(number, event=event)
    sessions = _Metric("vinci_sessions", "gauge", "Users who are logged in.")
    logged_in = Counter(session["community"] for session in report["sessions"])
    for community in [each["name"] for each in report.get("communities", [])]:
        sessions.add(logged_in[community], community=community)
    metrics_ = (declared, memory, records, sessions, *_of_vms(report["vms"]))
    return "".join(f"{line}\n" for metric in metrics_ for line in metric.lines({"node": str(report["node"])}))


def _of_vms(vms: list[dict[str, Any]]) -> tuple[_Metric, ...]:
    state = _Metric("vinci_vm_state", "gauge", "1 with the state that the VM is in.")
    trust = _Metric("vinci_vm_trust", "gauge", "1 with the verdict of introspection on a VM that runs.")
    memory = _Metric("vinci_vm_memory_bytes", "gauge", "Memory that the VM may have.")
    cpu = _Metric("vinci_vm_cpu_seconds_total", "counter", "Time that the VM's processors ran.")
    for vm in vms:
        labels = {"vm": vm["name"], "kind": vm.get("kind") or "", "community": vm.get("community") or ""}
        state.add(1, **labels, state=vm["state"])
        if "memory_mib" in vm:
            memory.add(vm["memory_mib"] * MIB, **labels)
        if vm.get("cpu_seconds") is not None:
            cpu.add(vm["cpu_seconds"], **labels)
            trust.add(1, **labels, verdict=vm["trust"]["verdict"], response=vm["trust"]["response"] or "")
    return state, trust, memory, cpu
