# SPDX-License-Identifier: GPL-2.0-or-later
"""The community of a login is taken from where and when it is made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from vinci.model.infrastructure import Infrastructure
from vinci.model.load import load, parse
from vinci.policy.login import Circumstances, CommunityNeededError, Entrance, NoRuleError, NotMemberError, entrance

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
@pytest.mark.parametrize("asked", [None, "scada", "software"])
def test_outside_of_all_rules_nobody_gets_in_by_asking(utility: Infrastructure, clock: str, asked: str | None) -> None:
    with pytest.raises(NoRuleError, match="no login rule lets sally into") as refused:
        entrance(utility, "sally", asked, at(clock))
    assert "scada at control-room from 06:00-14:00; software from 14:00-18:00" in str(refused.value)
    assert f"{clock[:5]} UTC at control-room" in str(refused.value)


def test_another_community_than_the_rules_is_not_to_be_had_by_asking(utility: Infrastructure) -> None:
    assert entrance(utility, "sally", "scada", at("08:00")) == Entrance("scada", 0)
    with pytest.raises(NoRuleError, match="into software now, 08:00 UTC"):
        entrance(utility, "sally", "software", at("08:00"))
    with pytest.raises(NotMemberError):
        entrance(utility, "sally", "database", at("08:00"))


def test_the_node_decides() -> None:
    infrastructure = with_login(
        "{user: sally, community: scada, node: control-room}", "{user: sally, community: software, node: desk}"
    )
    assert entrance(infrastructure, "sally", None, at("03:00")).community == "scada"
    assert entrance(infrastructure, "sally", None, at("03:00", "desk")).community == "software"
    with pytest.raises(NoRuleError, match="at elsewhere"):
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
    assert needed.value.choices == ("scada", "software")


def test_the_time_is_that_of_the_nodes_zone(utility: Infrastructure) -> None:
    east = datetime(2024, 5, 6, 5, 0, tzinfo=UTC).astimezone(timezone(timedelta(hours=2), "EET"))
    assert entrance(utility, "sally", None, Circumstances("control-room", east)).community == "scada"
