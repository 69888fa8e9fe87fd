# SPDX-License-Identifier: GPL-2.0-or-later
"""A change of the file as a change of flows."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import declarations, infrastructures

from vinci.model.infrastructure import Infrastructure
from vinci.model.load import load, parse
from vinci.policy.changes import ChangeKind, flow_changes
from vinci.policy.flows import analyse
from vinci.policy.graph import FlowGraph, Hop, Place
from vinci.policy.ways_down import new_ways_down

HOSPITAL = Path(__file__).parents[3] / "examples" / "hospital.yaml"


def changes(instead_of: str, written: str) -> list[tuple[ChangeKind, str]]:
    text = HOSPITAL.read_text()
    assert instead_of in text
    changed = parse(text.replace(instead_of, written, 1).encode()).infrastructure
    return [(change.kind, change.text) for change in flow_changes(load(HOSPITAL).infrastructure, changed)]


def test_a_grant_is_gained_and_lost() -> None:
    assert changes("{doctors: [read, write], nurses: [read]}", "{doctors: [write], nurses: [read, execute]}") == [
        (ChangeKind.LOSES, "doctors loses read on prescriptions"),
        (ChangeKind.GAINS, "nurses gains execute on prescriptions"),
    ]


def test_a_flow_that_goes_up_opens_nothing_downward() -> None:
    diode = (
        "flows:\n  - {from: doctors, to: nurses, service: syslog, direction: one-way, upward: true, reason: alarms}\n"
    )
    assert changes("flows:\n", diode.replace("alarms", "alarms only")) == [
        (ChangeKind.GAINS, "doctors can reach syslog (udp/514) of nurses one-way")
    ]


def test_a_flow_that_goes_down_is_told_apart() -> None:
    flow = "flows:\n  - {from: nurses, to: doctors, service: ssh, trusted: true, reason: the doctors' own notes}\n"
    ((gained, text), (opened, way)) = changes("flows:\n", flow)
    assert (gained, text) == (ChangeKind.GAINS, "nurses can reach ssh (tcp/22) of doctors")
    assert opened is ChangeKind.OPENS_DOWNWARD
    assert way.startswith("information of nurses gets down to doctors: nurses sends requests")
    assert "trusted: the doctors' own notes" in way


def test_a_membership() -> None:
    found = changes("communities: {nurses: {}}", "communities: {nurses: {}, doctors: {}}")
    assert found[0] == (ChangeKind.GAINS, "sally joins doctors")
    assert found[1][0] is ChangeKind.OPENS_DOWNWARD
    assert "unexplained" in found[1][1]


def test_a_label() -> None:
    found = changes("label: accounts", "label: everything")
    assert (ChangeKind.GAINS, "share billing has the label restricted {patients, ward, finance}") in found
    assert (ChangeKind.LOSES, "share billing no longer has the label restricted {patients, finance}") in found


@given(infrastructures(leaky=True), infrastructures(leaky=True))
@settings(max_examples=50)
def test_there_and_back(first: Infrastructure, second: Infrastructure) -> None:
    assert flow_changes(first, first) == ()
    there, back = flow_changes(first, second), flow_changes(second, first)
    assert {change.path for change in there if change.kind is ChangeKind.GAINS} == {
        change.path for change in back if change.kind is ChangeKind.LOSES
    }
    assert all(change.kind is not ChangeKind.LOSES for change in flow_changes(None, first))


UTILITY = HOSPITAL.with_name("utility.yaml")


def opened(instead_of: str, written: str) -> list[str]:
    """The ways down that a change of the utility opens."""
    text = UTILITY.read_text()
    assert instead_of in text
    changed = parse(text.replace(instead_of, written, 1).encode()).infrastructure
    found = flow_changes(load(UTILITY).infrastructure, changed)
    return [change.text for change in found if change.kind is ChangeKind.OPENS_DOWNWARD]


@pytest.mark.parametrize(
    ("instead_of", "written"),
    [
        ("functions: [read-holding-registers,", "functions: [write-register, read-holding-registers,"),
        ("registers: [0-99, 1000-1049]", "registers: [0-100, 1000-1049]"),
        ("units: [1, 2]", "units: [1-3]"),
        ("rate: 20", "rate: 21"),
        ("methods: [GET, HEAD]", "methods: [GET, POST]"),
        ("paths: [/news, /tools/*]", "paths: [/news, /tools/*, /t]"),
        ("max_body_bytes: 0", "max_body_bytes: 1"),
        ("    inspection:\n      gateway: http\n      methods: [GET, HEAD]\n      paths: [/news, /tools/*]\n"
         "      rate: 10\n      max_body_bytes: 0\n", ""),
    ],
)  # fmt: skip
def test_a_gateway_that_lets_more_through_is_a_new_way_down(instead_of: str, written: str) -> None:
    """The way is trusted for what its gateway lets through: nobody has been asked about more."""
    assert len(opened(instead_of, written)) >= 1


@pytest.mark.parametrize(
    ("instead_of", "written"),
    [
        ("functions: [read-holding-registers, read-input-registers]", "functions: [read-holding-registers]"),
        ("registers: [0-99, 1000-1049]", "registers: [0-50, 51-99]"),
        ("units: [1, 2]", "units: [1-2]"),
        ("rate: 20", "rate: 2"),
        ("paths: [/news, /tools/*]", "paths: [/tools/new/*]"),
    ],
)
def test_a_gateway_that_lets_less_through_opens_nothing(instead_of: str, written: str) -> None:
    assert opened(instead_of, written) == []


def test_a_way_down_from_a_higher_label_than_before_is_a_new_one() -> None:
    """The trusted hop stays what it was by name; what it carries does not."""
    text = UTILITY.read_text().replace("levels: [office, control]", "levels: [office, control, secret]")
    old = parse(text.encode()).infrastructure
    raised = parse(text.replace("level: control}", "level: secret}").encode()).infrastructure
    ways = [change for change in flow_changes(old, raised) if change.kind is ChangeKind.OPENS_DOWNWARD]
    assert any("scada" in change.text for change in ways)
    back = [change.text for change in flow_changes(raised, old) if change.kind is ChangeKind.OPENS_DOWNWARD]
    assert all(text.startswith("contents of share") for text in back)


# -- contents that come down with their label ------------------------------------------------------------------------


def downward(old: str, new: str) -> list[str]:
    found = flow_changes(parse(old.encode()).infrastructure, parse(new.encode()).infrastructure)
    return [change.text for change in found if change.kind is ChangeKind.OPENS_DOWNWARD]


PLACES = """
vinci: 1
name: three
labels: {levels: [low, middle, high], categories: [red]}
communities:
  top: {label: {level: high, categories: [red]}}
  middle: {label: {level: middle}}
  bottom: {label: {level: middle}}
file_servers: {fs1: {}}
shares:
  papers: {server: fs1, label: {level: high}, mount: /shares/papers, access: {top: [read]}}
nodes: {n1: {}}
flows:
  - {from: top, to: middle, service: ssh, trusted: true, reason: asked for}
"""


@pytest.mark.parametrize(
    ("instead_of", "written", "down"),
    [
        ("label: {level: high}, mount", "label: {level: middle}, mount", True),
        ("label: {level: high}, mount", "label: {level: high, categories: [red]}, mount", False),
        ("levels: [low, middle, high]", "levels: [low, middle, upper, high]", False),
        ("levels: [low, middle, high], categories: [red]", "levels: [middle, high], categories: [blue, red]", False),
    ],
)
def test_a_share_whose_label_comes_down_is_a_way_down(instead_of: str, written: str, down: bool) -> None:
    """fs-shares gives what is stored the new label: nobody has to copy anything."""
    assert instead_of in PLACES
    relabelled = "contents of share papers are relabelled from high to middle"
    assert downward(PLACES, PLACES.replace(instead_of, written)) == ([relabelled] if down else [])


def test_a_share_that_keeps_its_words_loses_a_category() -> None:
    """The name of the label stays; what it stands for does not."""
    labels = "labels: {levels: [low, middle, high], categories: [red]"
    old = PLACES.replace(labels, labels + ", named: {secret: {level: high, categories: [red]}}")
    old = old.replace("label: {level: high}, mount", "label: secret, mount")
    new = old.replace("named: {secret: {level: high, categories: [red]}}", "named: {secret: {level: high}}")
    assert downward(old, new) == ["contents of share papers are relabelled from high {red} to high"]


def test_a_share_whose_level_is_gone_comes_down() -> None:
    new = PLACES.replace("levels: [low, middle, high]", "levels: [low, middle]").replace("level: high", "level: middle")
    assert "contents of share papers are relabelled from high to middle" in downward(PLACES, new)


def test_levels_in_another_order() -> None:
    new = PLACES.replace("levels: [low, middle, high]", "levels: [low, high, middle]")
    new = new.replace("trusted: true", "upward: true, trusted: true")
    (told, *_) = downward(PLACES, new)
    assert told == "the levels stand in another order: high was above middle, and is below it now"


# -- ways that are new although their ends were connected ------------------------------------------------------------

DIODE = "  - {from: top, to: bottom, service: udp/514, direction: one-way, trusted: true, reason: narrow one}\n"
SAME_LABEL = "  - {from: middle, to: bottom, service: ssh}\n"


def test_a_second_way_between_two_that_were_connected_is_told() -> None:
    """The diode was asked for; the wide way around it was not."""
    ways = downward(PLACES + DIODE, PLACES + DIODE + SAME_LABEL)
    assert [way.partition(";")[0] for way in ways] == [
        "information of top gets down to bottom: top sends requests to ssh (tcp/22) of middle",
        "information of top gets down to middle: top sends requests to syslog (udp/514) of bottom",
    ]


def test_a_second_way_is_told_where_trusted_people_connect_everybody() -> None:
    everybody = """
users:
  vera: {uid: 2001, communities: {top: {}, bottom: {}}, trusted: true, reason: head of both}
  walt: {uid: 2002, communities: {top: {}, middle: {}}, trusted: true, reason: head of both}
"""
    ways = downward(PLACES + everybody, PLACES + SAME_LABEL + everybody)
    assert any(way.startswith("information of top gets down to bottom: top sends requests to ssh") for way in ways)


def test_more_ways_than_are_told_one_by_one_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vinci.policy.changes.MAX_WAYS", 2)
    names = [f"low{number}" for number in range(5)]
    communities = "".join(f"  {name}: {{label: {{level: middle}}}}\n" for name in names)
    flows = "".join(f"  - {{from: middle, to: {name}, service: ssh}}\n" for name in names)
    old = PLACES.replace("file_servers:", communities + "file_servers:")
    *told, more = downward(old, old + flows)
    assert len(told) == 2
    assert more == "information gets down between up to 3 more pairs of communities"


def paths(
    graph: FlowGraph, start: Place, end: Place, barred: Place | None, only_up: bool, seen: frozenset[Place]
) -> bool:
    """True when some path leads from one place to another past no barred one: tried out, one after the other."""
    if start == end:
        return True
    return any(
        paths(graph, hop.target, end, barred, only_up, seen | {start})
        for hop in graph.hops
        if hop.source == start and hop.target not in (barred, *seen) and not (only_up and hop.downward)
    )


def carried(graph: FlowGraph, hop: Hop, start: Place, end: Place, only_up: bool, apart: bool) -> bool:
    """True when information passes a hop on its way; `apart`: not by a way that was at one of its ends before."""
    if apart and (hop.source == end or hop.target == start):
        return False
    bars = (end, start) if apart else (None, None)
    return paths(graph, start, hop.source, bars[0], only_up, frozenset()) and paths(
        graph, hop.target, end, bars[1], only_up, frozenset()
    )


def obvious_pairs(old: FlowGraph, new: FlowGraph) -> set[tuple[Place, Place]]:
    """The pairs that have to be told, found by trying all paths; no label differs between the two files."""
    known = {(hop.kind, hop.source, hop.target, str(hop.path), hop.via): hop for hop in old.hops if hop.downward}
    found = set()
    for hop in new.hops:
        before = known.get((hop.kind, hop.source, hop.target, str(hop.path), hop.via))
        for start in new.communities if hop.downward else ():
            for end in new.communities:
                if new.labels[end].dominates(new.labels[start]):
                    continue
                for only_up in (True, False) if before else (False,):
                    was = (
                        carried(old, before, start, end, only_up, apart=False)
                        if before
                        else paths(old, start, end, None, False, frozenset())
                    )
                    if not was and carried(new, hop, start, end, only_up, apart=True):
                        found.add((start, end))
    return found


@given(declarations(leaky=True), st.data())
@settings(max_examples=150, deadline=None)
def test_new_ways_are_those_that_trying_all_paths_finds(data: dict[str, Any], draw: st.DataObject) -> None:
    """The old file lacks some flows at the end, some grants and some memberships of the new one."""
    new = Infrastructure.model_validate(data)
    less = copy.deepcopy(data)
    less["flows"] = less["flows"][: draw.draw(st.integers(0, len(less["flows"])))]
    for share in less["shares"].values():
        kept = draw.draw(st.sets(st.sampled_from(sorted(share["access"])), min_size=1))
        share["access"] = {name: share["access"][name] for name in share["access"] if name in kept}
    for user in less["users"].values():
        kept = draw.draw(st.sets(st.sampled_from(sorted(user["communities"])), min_size=1))
        user["communities"] = {name: user["communities"][name] for name in user["communities"] if name in kept}
    old = Infrastructure.model_validate(less)
    before, after = analyse(old), analyse(new)
    ways = new_ways_down(before, after, 10_000)
    fresh = {(hop.source, hop.target) for hop in ways.fresh}
    assert {(way.source, way.target) for way in ways.longer} == obvious_pairs(before.graph, after.graph) - fresh
    for way in ways.longer:
        assert (way.hops[0].source, way.hops[-1].target) == (way.source, way.target)
        assert all(first.target == then.source for first, then in pairwise(way.hops))
        assert any(hop.downward for hop in way.hops)
    assert ways.more == 0
