# SPDX-License-Identifier: GPL-2.0-or-later
"""The proof of flows, against a slow and obvious one, and its answers on the hospital."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from strategies import declarations, infrastructures

from vinci.model.infrastructure import Infrastructure
from vinci.model.load import load, parse
from vinci.model.problems import ModelPath
from vinci.policy.cut import smallest_change
from vinci.policy.flows import Passage, analyse, describe, leak_problems
from vinci.policy.graph import FlowGraph, Hop, HopKind, Place, community, flow_graph

EXAMPLES = Path(__file__).parents[3] / "examples"
HOSPITAL = EXAMPLES / "hospital.yaml"


def slow_closure(graph: FlowGraph, hops: list[Hop]) -> set[tuple[Place, Place]]:
    """Warshall's closure, with every place reaching itself."""
    reached = {(place, place) for place in graph.labels} | {(hop.source, hop.target) for hop in hops}
    for middle in graph.labels:
        into = [start for start, end in reached if end == middle]
        out = [end for start, end in reached if start == middle]
        reached |= {(start, end) for start in into for end in out}
    return reached


@given(infrastructures(leaky=True))
@settings(max_examples=150)
def test_closure_agrees_with_the_slow_one(infrastructure: Infrastructure) -> None:
    analysis = analyse(infrastructure)
    graph = analysis.graph
    everything = slow_closure(graph, list(graph.hops))
    explained = slow_closure(graph, [hop for hop in graph.hops if not hop.leaks])
    upward = slow_closure(graph, [hop for hop in graph.hops if not hop.downward])
    for start in graph.communities:
        for end in graph.communities:
            pair = (start, end)
            expected = Passage.NONE
            if pair in upward:
                expected = Passage.PERMITTED
            elif pair in explained:
                expected = Passage.TRUSTED
            elif pair in everything:
                expected = Passage.LEAK
            assert analysis.passage(start.name, end.name) is expected
    listed = {(start, end): passage for start, end, passage in analysis.passages()}
    for start in graph.communities:
        for end in graph.communities:
            if start != end:
                assert listed.get((start.name, end.name), Passage.NONE) is analysis.passage(start.name, end.name)


@given(infrastructures(leaky=True))
@settings(max_examples=150)
def test_no_leak_means_no_unexplained_way_down(infrastructure: Infrastructure) -> None:
    """Without the hops that the file trusts, nothing gets anywhere that does not dominate where it came from."""
    analysis = analyse(infrastructure)
    graph = analysis.graph
    unexplained = slow_closure(graph, [hop for hop in graph.hops if hop.reason is None])
    down = {(start, end) for start, end in unexplained if not graph.labels[end].dominates(graph.labels[start])}
    assert bool(down) == (not analysis.proved)


@given(infrastructures(leaky=True))
@settings(max_examples=100)
def test_ways_lead_from_start_to_end(infrastructure: Infrastructure) -> None:
    analysis = analyse(infrastructure)
    for start, end, passage in analysis.passages():
        way = analysis.way(start, end)
        assert (way[0].source, way[-1].target) == (community(start), community(end))
        assert all(before.target == after.source for before, after in pairwise(way))
        assert any(hop.leaks for hop in way) == (passage is Passage.LEAK)
        assert any(hop.downward for hop in way) == (passage is not Passage.PERMITTED)
    for leak in analysis.leaks:
        assert leak.hops[0] in leak.way
        assert all(before.target == after.source for before, after in pairwise(leak.way))


def without(data: dict[str, Any], removed: tuple[ModelPath, ...], kinds: set[HopKind]) -> dict[str, Any]:
    """The declaration after a change; flows are removed from the last on, so that numbers stay right."""
    for path in sorted(removed, key=lambda path: -path[1] if isinstance(path[1], int) else 0):
        match path:
            case ("flows", int(number)):
                del data["flows"][number]
            case ("users", user, "communities", name):
                del data["users"][user]["communities"][name]
            case ("shares", share, "access", grantee):
                kept = [operation for operation in data["shares"][share]["access"][grantee] if operation not in kinds]
                data["shares"][share]["access"][grantee] = kept
                if not kept:
                    del data["shares"][share]["access"][grantee]
            case _:
                raise AssertionError(path)
    for name in [name for name, share in data["shares"].items() if not share["access"]]:
        del data["shares"][name]
    for name in [name for name, user in data["users"].items() if not user["communities"]]:
        del data["users"][name]
    return data


@given(declarations(leaky=True))
@settings(max_examples=150)
def test_the_change_closes_the_leak(data: dict[str, Any]) -> None:
    leaks = analyse(Infrastructure.model_validate(data)).leaks
    if not leaks:
        return
    leak = leaks[0]
    changed = without(data, leak.change.remove, {hop.kind for hop in leak.hops})
    assert len(analyse(Infrastructure.model_validate(changed)).leaks) == len(leaks) - 1


@given(declarations(leaky=True))
@settings(max_examples=100)
def test_the_smallest_change_separates(data: dict[str, Any]) -> None:
    analysis = analyse(Infrastructure.model_validate(data))
    for start, end, _ in analysis.passages():
        change = smallest_change(analysis.graph, start, end, lambda _hop: True)
        assert change.remove
        changed = without(data, change.remove, set(HopKind))
        infrastructure = Infrastructure.model_validate(changed)
        assert analyse(infrastructure).passage(start, end) is Passage.NONE
        return


@given(infrastructures())
@settings(max_examples=100)
def test_declared_trust_explains_everything(infrastructure: Infrastructure) -> None:
    assert analyse(infrastructure).proved


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_proved(example: Path) -> None:
    assert analyse(load(example).infrastructure).leaks == ()


def test_hospital_leaks_without_its_trust() -> None:
    text = HOSPITAL.read_text()
    declaration = parse(text.replace("trusted: true", "trusted: false").encode(), "hospital.yaml")
    analysis = analyse(declaration.infrastructure)
    assert [leak.change.remove for leak in analysis.leaks] == [
        (("flows", 0),),
        (("users", "bruno", "communities", "administration"),),
    ]
    lines = text.splitlines()
    for leak, written in zip(analysis.leaks, ["from: administration", "communities: {doctors"], strict=True):
        step = describe(analysis.graph, leak.hops[0], declaration.source)
        assert step.downward
        assert step.reason is None
        assert written in lines[step.position.line - 1]
        assert "unexplained" in str(step)


def test_a_diode_lets_nothing_back() -> None:
    text = HOSPITAL.read_text().replace("nodes:", "nodes:", 1)
    diode = "  - {from: doctors, to: nurses, service: udp/514, direction: one-way, upward: true, reason: alarms only}\n"
    infrastructure = parse(text.replace("flows:\n", "flows:\n" + diode).encode()).infrastructure
    hops = [hop for hop in flow_graph(infrastructure).hops if hop.path == ("flows", 0)]
    assert [(hop.source, hop.target) for hop in hops] == [(community("doctors"), community("nurses"))]
    both = parse(text.replace("flows:\n", "flows:\n" + diode.replace("one-way", "both")).encode()).infrastructure
    assert any(hop.leaks and hop.kind is HopKind.ANSWER for hop in flow_graph(both).hops)


def test_home_directories_are_places_of_their_own_community_only() -> None:
    graph = flow_graph(load(HOSPITAL).infrastructure)
    homes = {
        (str(hop.source), hop.kind, str(hop.target)) for hop in graph.hops if "homes-" in f"{hop.source} {hop.target}"
    }
    assert homes == {
        hop
        for name in ("doctors", "nurses", "administration")
        for hop in (
            (f"share homes-{name}", HopKind.READ, name),
            (name, HopKind.WRITE, f"share homes-{name}"),
        )
    }
    assert not any(hop.downward for hop in graph.hops if "homes-" in f"{hop.source} {hop.target}")


def test_a_leak_is_a_problem_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "leaky.yaml"
    text = HOSPITAL.read_text()
    file.write_text(text.replace("    trusted: true\n    reason: the ward's bed", "    reason: the ward's bed"))
    declaration = load(file)
    (problem,) = leak_problems(analyse(declaration.infrastructure), declaration.source)
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if text.startswith("  - from: admin"))
    assert (problem.file, problem.line) == (str(file), line)
    assert "administration sends requests to https (tcp/443) of nurses" in problem.wrong
    assert "remove the flow" in problem.right
    proved = load(HOSPITAL)
    assert leak_problems(analyse(proved.infrastructure), proved.source) == ()
