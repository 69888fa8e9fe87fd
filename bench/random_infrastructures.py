# SPDX-License-Identifier: GPL-2.0-or-later
"""Random infrastructures through model, policy and rule read-back: do the enforced artefacts say what was declared?

Each is checked like a file, proved free of leaks, compiled to binary SELinux policies and nftables rules, and these
are read back and compared with the declaration (`vinci.plan.second_opinion`). Number i of seed S is always the same.

    nice -n 19 .venv/bin/python bench/random_infrastructures.py --count 100000 --seed 1
    .venv/bin/python bench/random_infrastructures.py --only 1:4711         # one again, with its text
    .venv/bin/python bench/random_infrastructures.py --mutants             # can the comparison fail at all?

What was done is kept in build/, so a run that was broken off goes on where it was, and runs of several seeds add up.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from typing import Any

import setools
from libsepol import compile_in_process
from random_declarations import random_declaration
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vinci.model.infrastructure import AppVmMode, Direction, Infrastructure, Peers
from vinci.model.labels import resolve_labels
from vinci.model.problems import Severity
from vinci.model.services import resolve_service
from vinci.model.validate import findings
from vinci.node.payload import compile_policy
from vinci.plan.compile import compile_plan
from vinci.plan.second_opinion import check_files, check_packets
from vinci.policy.flows import analyse

ROOT = Path(__file__).parents[1]
CHUNK = 100
"""Infrastructures of one process: it leaves its memory to the next one."""
SECILC_EVERY = 1000
"""So often the binary is compared with that of `secilc` itself."""
STATE = ROOT / "build" / "random-infrastructures.json"
MAX_TOLD = 20


@dataclass
class Tally:
    """What came of a number of infrastructures."""

    done: int = 0
    cpu_seconds: float = 0.0
    features: Counter[str] = field(default_factory=Counter)
    disagreements: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take up another tally."""
        self.done += other.done
        self.cpu_seconds += other.cpu_seconds
        self.features.update(other.features)
        self.disagreements += other.disagreements


def number(seed: int, index: int) -> Infrastructure:
    """The infrastructure number `index` of a seed."""
    return Infrastructure.model_validate(random_declaration(Random(f"{seed}:{index}")))


def disagreements(infrastructure: Infrastructure) -> Iterator[str]:
    """Everything in which the declaration and what is made from it differ."""
    faults = [each for each in findings(infrastructure) if each.severity is Severity.ERROR]
    yield from (f"the model refuses it: {each.wrong}" for each in faults)
    if not analyse(infrastructure).proved:
        yield "the proof of flows finds a leak, and every way down is trusted"
    plan = compile_plan(infrastructure)
    for service in plan.nodes[0].file_services:
        yield from map(str, check_files(infrastructure, service, _opened(service.policy_cil)))
    yield from map(str, check_packets(infrastructure, plan))


@lru_cache(maxsize=4)
def _opened(cil: str) -> Any:
    descriptor = os.memfd_create("policy")
    try:
        os.write(descriptor, compile_in_process(cil))
        return setools.SELinuxPolicy(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def features(infrastructure: Infrastructure) -> set[str]:
    """The parts of the format that an infrastructure uses."""
    resolve = resolve_labels(infrastructure)
    labels = [resolve(entry.label) for entry in infrastructure.communities.values()]
    found = {f"{len(infrastructure.communities)} communities", f"{len(infrastructure.file_servers)} file servers"}
    if any(not a.dominates(b) and not b.dominates(a) for a in labels for b in labels):
        found.add("incomparable communities")
    for community in infrastructure.communities.values():
        found.add("peers all" if community.app_vms.peers is Peers.ALL else "peers none")
        found.add("APP-VM per user" if community.app_vms.mode is AppVmMode.PER_USER else "APP-VMs shared")
        if community.ethertypes:
            found.add(f"ethertypes with peers {community.app_vms.peers}")
    if any(len(user.communities) > 1 for user in infrastructure.users.values()):
        found.add("user in several communities")
    for share in infrastructure.shares.values():
        found.add(f"share: {share.kind}")
        found |= {"share: trusted"} if share.trusted else set()
        for grantee, operations in share.access.items():
            found |= {f"grant: {operation}" for operation in operations}
            found |= {"grant to one user"} if ":" in grantee else set()
    for flow in infrastructure.flows:
        found.add("flow: one-way" if flow.direction is Direction.ONE_WAY else "flow: both ways")
        found.add(f"flow: {resolve_service(infrastructure, flow.service).protocol}")
        found |= {name for name, said in (("flow: upward", flow.upward), ("flow: trusted", flow.trusted)) if said}
        found |= {f"flow: {flow.inspection.gateway} gateway"} if flow.inspection else set()
    return found


def chunk(job: tuple[int, int, int]) -> Tally:
    """Check infrastructures from a first to a last number of a seed."""
    seed, first, last = job
    gc.disable()  # the process ends with the job, and a seventh of its time would go there
    start, tally = time.process_time(), Tally()
    for index in range(first, last):
        infrastructure = number(seed, index)
        try:
            found = list(disagreements(infrastructure))
        except Exception as error:  # whatever it is, it is a defect of this infrastructure's way
            found = [f"{type(error).__name__}: {error}"]
        if index % SECILC_EVERY == 0:
            found += _another_binary(infrastructure)
        tally.done += 1
        tally.features.update(features(infrastructure))
        tally.disagreements += [f"{seed}:{index}: {each}" for each in found]
    tally.cpu_seconds = time.process_time() - start
    return tally


def _another_binary(infrastructure: Infrastructure) -> list[str]:
    """The library's binary beside that of `secilc`, which also checks `neverallow` rules."""
    services = compile_plan(infrastructure).nodes[0].file_services
    return [
        f"{service.vm}: libsepol's binary is not secilc's"
        for service in services
        if compile_in_process(service.policy_cil) != compile_policy(service.policy_cil)
    ]


# -- what was done ---------------------------------------------------------------------------------------------------


@cache
def _version() -> str:
    """A digest of all code that is under test."""
    digest = hashlib.sha256()
    for room in ("model", "policy", "plan"):
        for path in sorted((ROOT / "src" / "vinci" / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _key(version: str, seed: int) -> str:
    return f"{version}/{seed}"


def _read(state: Path) -> dict[str, Tally]:
    if not state.exists():
        return {}
    runs = json.loads(state.read_text())
    return {key: Tally(**{**run, "features": Counter(run["features"])}) for key, run in runs.items()}


def _write(state: Path, runs: dict[str, Tally]) -> None:
    state.parent.mkdir(exist_ok=True)
    temporary = state.with_suffix(".new")
    temporary.write_text(json.dumps({key: vars(tally) for key, tally in runs.items()}, indent=1))
    temporary.replace(state)


def run(seed: int, count: int, state: Path, processes: int) -> Tally:
    """Check numbers of a seed until `count` of them are done, so many at a time."""
    multiprocessing.set_start_method("fork")  # children check what was loaded, whatever becomes of the files
    runs = _read(state)
    tally = runs.setdefault(_key(_version(), seed), Tally())
    firsts = range(tally.done, count, CHUNK)
    jobs = ((seed, first, min(first + CHUNK, count)) for first in firsts)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[found]} disagreements"))
    with (
        multiprocessing.Pool(processes, maxtasksperchild=1) as pool,
        Progress(*columns, TimeRemainingColumn(), refresh_per_second=1) as progress,
    ):
        bar = progress.add_task("", total=count, completed=tally.done, found=len(tally.disagreements))
        for part in pool.imap(chunk, jobs):
            tally.add(part)
            _write(state, runs)
            progress.update(bar, completed=tally.done, found=len(tally.disagreements))
    return tally


def report(state: Path) -> None:
    """Print what was done, for this version of the code and for all."""
    version, runs, total = _version(), _read(state), Tally()
    for key, tally in runs.items():
        print(f"{key:>20}: {tally.done:7} infrastructures, {len(tally.disagreements)} disagreements")
        if key.startswith(f"{version}/"):
            total.add(tally)
    rate = total.done / total.cpu_seconds if total.cpu_seconds else 0.0
    print(
        f"this version of the code ({version}): {total.done} infrastructures, {len(total.disagreements)} disagreements"
    )
    print(f"{rate:.1f} a CPU second; all versions: {sum(tally.done for tally in runs.values())}")
    for name, times in sorted(total.features.items(), key=lambda each: -each[1]):
        print(f"  {name:<28} in {times:7} ({times / max(total.done, 1):4.0%})")
    for each in total.disagreements[:MAX_TOLD]:
        print(f"DISAGREES {each}")


def _again(name: str) -> int:
    seed, index = map(int, name.split(":"))
    infrastructure = number(seed, index)
    print(infrastructure.model_dump_json(indent=1, by_alias=True, exclude_defaults=True))
    found = list(disagreements(infrastructure))
    print("\n".join(found) or "no disagreement")
    return 1 if found else 0


def main() -> int:
    """Run what was asked for; exit status 1 when something disagrees."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="how many of the seed in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="how many at a time")
    parser.add_argument("--only", metavar="SEED:NUMBER", help="one of them, with its text")
    parser.add_argument("--mutants", action="store_true", help="break the compilers on purpose: is it found?")
    parser.add_argument("--report", action="store_true", help="only tell what was done")
    parser.add_argument("--state", type=Path, default=STATE, help="where to keep what was done")
    asked = parser.parse_args()
    if asked.only:
        return _again(asked.only)
    if asked.mutants:
        from mutants import score

        return score(asked.seed, asked.count)
    if not asked.report:
        run(asked.seed, asked.count, asked.state, asked.processes)
    report(asked.state)
    return 1 if any(tally.disagreements for tally in _read(asked.state).values()) else 0


if __name__ == "__main__":
    sys.exit(main())
