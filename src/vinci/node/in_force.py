# SPDX-License-Identifier: GPL-2.0-or-later
"""A declaration that a node can follow, and what was derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vinci.model.infrastructure import Infrastructure, Peers
from vinci.model.load import parse
from vinci.model.problems import DeclarationError
from vinci.model.source import Source
from vinci.plan.compile import compile_plan
from vinci.plan.types import NodePlan, Plan, Vm, VmKind
from vinci.policy.flows import analyse, leak_problems


@dataclass(frozen=True)
class InForce:
    """A declaration by its version and the path that it came from, its source for what is said of its lines, and the
    plan of all nodes and of this one, which is empty where the node has no part in it."""

    version: int
    path: str
    infrastructure: Infrastructure
    source: Source
    plan: Plan
    node_plan: NodePlan

    @cached_property
    def vms(self) -> dict[str, Vm]:
        """The node's VMs by name."""
        return {vm.name: vm for vm in self.node_plan.vms}

    def ethertypes(self, vm: Vm) -> tuple[int, ...]:
        """Those that a VM may exchange with others of its community."""
        if vm.kind is not VmKind.APP or vm.community is None:
            return ()
        community = self.infrastructure.communities.get(vm.community)
        return community.ethertypes if community and community.app_vms.peers is Peers.ALL else ()


def derive(node: str, version: int, path: str, text: bytes) -> InForce:
    """What a node is to follow of an infrastructure file.

    Raises:
        DeclarationError: it does not validate, or is not proved free of leaks.
    """
    declaration = parse(text, path)
    infrastructure = declaration.infrastructure
    if leaks := leak_problems(analyse(infrastructure), declaration.source):
        raise DeclarationError(leaks)
    plan = compile_plan(infrastructure)
    node_plan = next((each for each in plan.nodes if each.node == node), None)
    if node_plan is None:
        node_plan = NodePlan(node, (), (), (), ())
    return InForce(version, path, infrastructure, declaration.source, plan, node_plan)
