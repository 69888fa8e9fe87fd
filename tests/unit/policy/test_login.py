# SPDX-License-Identifier: GPL-2.0-or-later
"""The community of a login is taken from where and when it is made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from vinci.model.infrastructure import Infrastructure
from vinci.model.load import load, parse
from vinci.policy.login import Circumstances, CommunityNeededError, Entrance, NotMemberError, entrance

UTILITY = Path(__file__).parents[3] / "examples" / "utility.yaml"


@pytest.fixture(scope="module")
def utility() -> Infrastructure:
    return load(UTILITY).infrastructure


def at(clock: str, node: str = "control-room") -> Circumstances:
    return Circumstances(node, datetime.fromisoformat(f"2024-05-06T{clock}").replace(tzinfo=UTC))


def with_login(*rules: str) -> Infrastructure:
    text = UTILITY.read_text()
    start = text.index("login:\n")
    end = text.index("nodes:\n")
    login = "login:\n" + "".join(f"  - {rule}\n" for rule in rules)
    return parse(
        (text[:start] + login + "\n" + text[end:].replace("control-room: {}", "control-room: {}\n  desk: {}")).encode()
    ).infrastructure


@pytest.mark.parametrize(
    ("clock", "wanted"),
    [
        ("06:00:00", Entrance("scada", 0)),
        ("13:59:59.999999", Entrance("scada", 0)),
        ("14:00:00", Entrance("software", 1)),
        ("17:59:59", Entrance("software", 1)),
    ],
)
def test_the_clock_decides_at_its_boundaries(utility: Infrastructure, clock: str, wanted: Entrance) -> None:
    assert entrance(utility, "sally", None, at(clock)) == wanted


@pytest.mark.parametrize("clock", ["05:59:59.999999", "18:00:00", "00:00:00", "23:59:59"])
def test_outside_of_all_rules_a_community_has_to_be_named(utility: Infrastructure, clock: str) -> None:
    with pytest.raises(CommunityNeededError) as needed:
        entrance(utility, "sally", None, at(clock))
    assert needed.value.choices == ("scada", "software")
    assert f"no login rule fits at {clock[:5]} UTC at control-room" in str(needed.value)
    assert "(rules: scada at control-room from 06:00-14:00; software from 14:00-18:00)" in str(needed.value)
    assert entrance(utility, "sally", "software", at(clock)) == Entrance("software")


def test_who_names_a_community_enters_it_if_he_is_a_member(utility: Infrastructure) -> None:
    assert entrance(utility, "sally", "software", at("08:00")) == Entrance("software")
    with pytest.raises(NotMemberError):
        entrance(utility, "sally", "database", at("08:00"))


def test_the_node_decides() -> None:
    infrastructure = with_login(
        "{user: sally, community: scada, node: control-room}", "{user: sally, community: software, node: desk}"
    )
    assert entrance(infrastructure, "sally", None, at("03:00")).community == "scada"
    assert entrance(infrastructure, "sally", None, at("03:00", "desk")).community == "software"
    with pytest.raises(CommunityNeededError, match="at elsewhere"):
        entrance(infrastructure, "sally", None, at("03:00", "elsewhere"))


@pytest.mark.parametrize(
    ("clock", "community"),
    [
        ("22:00", "scada"),
        ("23:59:59", "scada"),
        ("00:00", "scada"),
        ("05:59:59", "scada"),
        ("06:00", "software"),
        ("21:59:59", "software"),
    ],
)
def test_a_span_over_midnight(clock: str, community: str) -> None:
    infrastructure = with_login(
        "{user: sally, community: scada, between: 22:00-06:00}", "{user: sally, community: software}"
    )
    assert entrance(infrastructure, "sally", None, at(clock)).community == community


def test_rules_for_everybody_only_choose() -> None:
    infrastructure = with_login("{community: software, between: 14:00-18:00}")
    assert entrance(infrastructure, "sally", None, at("15:00")) == Entrance("software", 0)
    assert entrance(infrastructure, "sally", "scada", at("15:00")) == Entrance("scada")
    assert entrance(infrastructure, "oskar", None, at("15:00")) == Entrance("scada")
    with pytest.raises(CommunityNeededError) as needed:
        entrance(infrastructure, "sally", None, at("13:00"))
    assert "no login rule fits at 13:00 UTC" in str(needed.value)


def test_the_time_is_that_of_the_nodes_zone(utility: Infrastructure) -> None:
    east = datetime(2024, 5, 6, 5, 0, tzinfo=UTC).astimezone(timezone(timedelta(hours=2), "EET"))
    assert entrance(utility, "sally", None, Circumstances("control-room", east)).community == "scada"
