# SPDX-License-Identifier: GPL-2.0-or-later
"""The company of the paper: eight communities, checked, planned and proved; and each of its statements can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from vinci.model.load import Declaration, load, parse
from vinci.plan.compile import compile_plan
from vinci.plan.types import VmKind
from vinci.policy.expect import Outcome, check_expectations
from vinci.policy.flows import Passage, analyse

COMPANY = Path(__file__).parents[3] / "examples" / "company.yaml"
COMMUNITIES = {"research", "engineering", "sales", "marketing", "management", "finance", "support", "services"}


@pytest.fixture(scope="module")
def company() -> Declaration:
    return load(COMPANY)


def outcomes(declaration: Declaration) -> dict[str, Outcome]:
    found = check_expectations(analyse(declaration.infrastructure), declaration.source)
    return {each.that: each.outcome for each in found}


def test_it_has_the_eight_communities_and_is_proved(company: Declaration) -> None:
    assert set(company.infrastructure.communities) == COMMUNITIES
    assert analyse(company.infrastructure).proved
    assert set(outcomes(company).values()) == {Outcome.HOLDS}


def test_its_plan_has_a_network_a_firewall_and_homes_for_each(company: Declaration) -> None:
    plan = compile_plan(company.infrastructure)
    vms = plan.nodes[0].vms
    assert {vm.community for vm in vms if vm.kind is VmKind.FW} == COMMUNITIES
    assert {vm.community for vm in vms if vm.kind is VmKind.APP} == COMMUNITIES
    homes = next(service for service in plan.nodes[0].file_services if service.vm == "homes")
    assert {share.name.removeprefix("homes-") for share in homes.shares} == COMMUNITIES
    assert {member.community for member in homes.members} == COMMUNITIES


def test_research_gets_out_only_where_a_person_has_given_a_reason(company: Declaration) -> None:
    analysis = analyse(company.infrastructure)
    for other in COMMUNITIES - {"research", "management"}:
        assert analysis.passage("research", other) is Passage.TRUSTED
    assert analysis.passage("research", "management") is Passage.PERMITTED
    assert analysis.passage("services", "research") is Passage.PERMITTED


@pytest.mark.parametrize(
    ("instead_of", "written", "broken"),
    [
        ('"engineering:erna": [append]', "engineering: [append]",
         "only research and engineering:erna can append laboratory"),
        ("management: [read]}\n  contracts:", "management: [read], support: [read]}\n"
         "    trusted: {communities: [support], reason: a way to look}\n  contracts:",
         "only research, management can read laboratory"),
        ("engineering: [write]}\n    trusted:\n      communities: [engineering]",
         "engineering: [write], support: [write]}\n    trusted:\n      communities: [engineering, support]",
         "only engineering, marketing can write press"),
        ("management: [read]\n    description: append-only", "management: [read, write]\n    description: append-only",
         "nobody can write log"),
        ("      management: [read]\n    description: append-only",
         "      management: [read]\n      'services:ines': [read]\n"
         "    trusted: {communities: [services], reason: looks after it}\n    description: append-only",
         "only management can read log"),
        ("      finance: [read]\n      support: [read]\n", "      finance: [read]\n", "everybody can read handbook"),
        ("flows:\n",
         "flows:\n  - {from: support, to: finance, service: ssh, upward: true, trusted: true, reason: a short cut}\n",
         "marketing and support cannot reach finance"),
        ("flows:\n",
         "flows:\n  - {from: management, to: research, service: ssh, trusted: true, reason: a short cut}\n",
         "nobody can reach research"),
        ("communities: {research: {}}\n",
         "communities: {research: {}, engineering: {}}\n    trusted: true\n    reason: a second person in both\n",
         "nothing of research reaches engineering except by erna, management"),
        ("communities: {finance: {}}\n",
         "communities: {finance: {}, marketing: {}}\n    trusted: true\n    reason: a person in both\n",
         "nothing of finance reaches marketing except by sales, management"),
    ],
)  # fmt: skip
def test_each_statement_can_fail(instead_of: str, written: str, broken: str) -> None:
    text = COMPANY.read_text()
    assert text.count(instead_of) >= 1
    found = outcomes(parse(text.replace(instead_of, written, 1).encode()))
    assert found[broken] is Outcome.FAILS
