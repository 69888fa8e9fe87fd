# SPDX-License-Identifier: GPL-2.0-or-later
"""Cross checks of a declaration: everything that one part of the file says about another. All findings at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from vinci.model.checks.ethertypes import check_ethertypes
from vinci.model.checks.facts import Facts, Finding, Omitted
from vinci.model.checks.flows import check_flows
from vinci.model.checks.labels import check_labels
from vinci.model.checks.networks import check_machines, check_networks
from vinci.model.checks.people import check_login, check_users
from vinci.model.checks.shares import check_shares
from vinci.model.infrastructure import Infrastructure
from vinci.model.problems import Problem, Severity
from vinci.model.source import MAX_PROBLEMS, Source

CHECKS = (
    check_labels,
    check_networks,
    check_machines,
    check_ethertypes,
    check_users,
    check_shares,
    check_flows,
    check_login,
)


def findings(infrastructure: Infrastructure, omitted: Omitted | None = None) -> Iterator[Finding]:
    """What is wrong or dubious, by path in the model. `omitted` entries are taken as known."""
    facts = Facts(infrastructure, omitted or Omitted())
    for check in CHECKS:
        yield from check(facts)


def validate(infrastructure: Infrastructure, source: Source, omitted: Omitted | None = None) -> tuple[Problem, ...]:
    """Errors and warnings with their places in the file, at most MAX_PROBLEMS, in the order of the file."""
    problems = []
    for finding in islice(findings(infrastructure, omitted), MAX_PROBLEMS):
        place = source.at(finding.path)
        problems.append(
            Problem(place.file, place.line, place.column, finding.wrong, finding.right, finding.path, finding.severity)
        )
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def errors(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Those of the problems that refuse the file."""
    return tuple(problem for problem in problems if problem.severity is Severity.ERROR)
