# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints a digest of everything that is made from files: run as a program, in a process of its own.

python tests/unit/plan/fingerprint.py FILE…
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

from vinci.model.load import load
from vinci.plan.accounts import account_table
from vinci.plan.bridge_rules import bridge_ruleset
from vinci.plan.compile import compile_plan
from vinci.plan.difference import difference
from vinci.plan.file_tables import share_table, subject_table
from vinci.plan.firewall_rules import firewall_ruleset
from vinci.plan.gateway_table import gateway_table
from vinci.plan.types import Plan, VmKind
from vinci.policy.flows import analyse


def canonical(value: object) -> str:
    """The value as text, with sets in order: a set is the same whatever order Python gives it."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{field.name}={canonical(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(canonical, value))) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(canonical, value)) + ")"
    return repr(value)


def artefacts(plan: Plan) -> Iterator[str]:
    """Everything that guests and the node are given, as it is given."""
    for node in plan.nodes:
        yield json.dumps(bridge_ruleset(node.bridges))
        for firewall in node.firewalls:
            yield json.dumps(firewall_ruleset(firewall))
            yield gateway_table(firewall)
        apps = [vm for vm in node.vms if vm.kind is VmKind.APP]
        sessions = [(vm.name, member.user, member.community) for vm in apps for member in plan.members]
        for service in node.file_services:
            yield service.policy_cil
            yield share_table(service.shares, plan.members)
            yield subject_table(service, node, sessions)
        for vm in apps:
            for member in plan.members:
                if member.community == vm.community:
                    yield account_table(plan, node, vm, member.user, member.community)


def parts(file: Path) -> Iterator[str]:
    """The plan, the proof, and all that is made from the plan."""
    declaration = load(file)
    plan, analysis = compile_plan(declaration.infrastructure), analyse(declaration.infrastructure)
    yield canonical(plan)
    yield canonical((analysis.graph.hops, analysis.leaks, tuple(analysis.passages())))
    yield from difference(None, plan)
    yield from artefacts(plan)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(hashlib.sha256("\n".join(parts(Path(name))).encode()).hexdigest(), name)
