# SPDX-License-Identifier: GPL-2.0-or-later
"""Which ethertypes a community may declare, and what becomes of them in the plan and in a change of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinci.model.ethertypes import MAX_ETHERTYPES, REFUSED
from vinci.model.load import Declaration, DeclarationError, parse
from vinci.plan.compile import compile_plan
from vinci.plan.difference import difference
from vinci.policy.changes import ChangeKind, flow_changes
from vinci.policy.flows import analyse

UTILITY = (Path(__file__).parents[3] / "examples" / "utility.yaml").read_text()
SCADA = "    app_vms: {count: 2, peers: all}"
RESPONSE = "    response: quarantine\n"
NUMBERS = st.integers(0, 0x10FFF) | st.sampled_from([*REFUSED, 0x5FF, 0x600, 0xFFFF, 0x10000])


def with_ethertypes(written: str, peers: str = "all") -> Declaration:
    assert UTILITY.count(SCADA) == UTILITY.count(RESPONSE) == 1
    text = UTILITY.replace(SCADA, f"    ethertypes: {written}\n    app_vms: {{peers: {peers}}}").replace(RESPONSE, "")
    return parse(text.encode(), "u.yaml")


def refusals(written: str) -> list[str]:
    with pytest.raises(DeclarationError) as caught:
        with_ethertypes(written)
    line = UTILITY[: UTILITY.index(SCADA)].count("\n") + 1
    assert {problem.line for problem in caught.value.problems} == {line}
    assert all(problem.right for problem in caught.value.problems)
    return [problem.wrong for problem in caught.value.problems]


def test_numbers_are_written_as_everybody_writes_them() -> None:
    declared = [with_ethertypes(text).infrastructure for text in ("[0x88b8, 0x88BA]", "[35000, 35002]")]
    assert declared[0] == declared[1]
    assert declared[0].communities["scada"].ethertypes == (0x88B8, 0x88BA)


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("[0x88b8, 0x05dc]", "0x05dc is the length of a frame (IEEE 802.3), no ethertype"),
        ("[0x10000]", "0x10000 is no ethertype"),
        ("[-5]", "-5 is no ethertype"),
        ("[0x0800]", "0x0800 is IPv4"),
        ("[0x86dd]", "0x86dd is IPv6"),
        ("[0x8100]", "0x8100 is 802.1Q VLAN tag"),
        ("[0x88b8, 35000]", "0x88b8 stands twice in ethertypes"),
        ("['0x88b8']", 'this item is "0x88b8"'),
        ("[0x]", 'this item is "0x"'),
        ("[0x88bg]", 'this item is "0x88bg"'),
        ("[true]", "this item is true"),
        ("0x88b8", '"ethertypes" is 35000'),
        (str(list(range(0x600, 0x600 + MAX_ETHERTYPES + 1))), '"ethertypes" is too long'),
    ],
)
def test_what_is_no_ethertype_is_told_with_its_line(written: str, wrong: str) -> None:
    assert [each for each in refusals(written) if each.startswith(wrong)]


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_an_ethertype_can_be_declared_if_and_only_if_it_is_one_and_not_refused(numbers: list[int]) -> None:
    possible = len(set(numbers)) == len(numbers) and all(0x600 <= each <= 0xFFFF for each in numbers)
    if possible and not REFUSED.keys() & set(numbers):
        assert with_ethertypes(str(numbers)).infrastructure.communities["scada"].ethertypes == tuple(numbers)
    else:
        assert refusals(str(numbers))


def test_ethertypes_that_nobody_could_send_to_anybody_are_told() -> None:
    (warning,) = with_ethertypes("[0x88b8]", "none").warnings
    assert "may not reach each other" in warning.wrong


def test_a_mistake_hides_no_other() -> None:
    text = UTILITY.replace(SCADA, "    ethertypes: [0x0800]\n" + SCADA).replace("label: records", "label: record")
    with pytest.raises(DeclarationError) as caught:
        parse(text.encode())
    wrongs = [problem.wrong for problem in caught.value.problems]
    assert any("0x0800 is IPv4" in wrong for wrong in wrongs)
    assert any('unknown label "record"' in wrong for wrong in wrongs)


def test_the_plan_has_them_on_their_bridge_only_whatever_their_order() -> None:
    plans = [compile_plan(with_ethertypes(text).infrastructure) for text in ("[0x88ba, 0x88b8]", "[0x88b8, 0x88ba]")]
    assert plans[0] == plans[1]
    found = {bridge.network: bridge.ethertypes for bridge in plans[0].nodes[0].bridges}
    assert found == {"software": (), "scada": (0x88B8, 0x88BA), "database": (), "transit": ()}


def test_they_open_no_flow_between_labels_and_are_told_as_a_change() -> None:
    without, declared = with_ethertypes("[]").infrastructure, with_ethertypes("[0x88b8]").infrastructure
    assert analyse(without).graph.hops == analyse(declared).graph.hops
    said = "APP-VMs of scada can {} each other ethertype 0x88b8"
    assert [(each.kind, each.text) for each in flow_changes(without, declared)] == [
        (ChangeKind.GAINS, said.format("send"))
    ]
    assert [(each.kind, each.text) for each in flow_changes(declared, without)] == [
        (ChangeKind.LOSES, said.format("no longer send"))
    ]
    assert difference(compile_plan(without), compile_plan(declared)) == ["change bridge rules of scada"]


def test_without_peers_there_is_no_change() -> None:
    without, declared = (with_ethertypes(text, "none").infrastructure for text in ("[]", "[0x88b8]"))
    assert flow_changes(without, declared) == ()
