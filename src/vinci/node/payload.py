# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest needs of the plan: as files to boot from, and as commands once it runs."""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from vinci.plan.file_tables import share_table
from vinci.plan.firewall_rules import firewall_ruleset
from vinci.plan.gateway_table import gateway_table
from vinci.plan.types import FileService, Firewall, NodePlan, Vm, VmKind

SECILC_SECONDS = 60

Payload = list[tuple[str, bytes]]
"""Commands of a guest and what each reads on its standard input."""


LOAD_POLICY = "/usr/lib/vinci/fs-policy"
"""The guest's command that puts a binary policy in force."""
SHARES_COMMAND = "/usr/lib/vinci/fs-shares"
"""The guest's command that makes, labels and exports the trees of shares."""


class PolicyError(OSError):
    """The SELinux policy does not compile."""


@lru_cache(maxsize=8)
def compile_policy(cil: str) -> bytes:
    """The binary policy that the guest's kernel loads, made by `secilc` (SELinux policy version 33, Linux 5.8 on).

    Raises:
        PolicyError: secilc refused the text.
    """
    with tempfile.TemporaryDirectory(prefix="vinci-policy-") as folder:
        source, binary = Path(folder) / "policy.cil", Path(folder) / "policy"
        source.write_text(cil)
        done = subprocess.run(
            ["secilc", "--mls", "true", "-c", "33", "-o", str(binary), "-f", "/dev/null", str(source)],
            capture_output=True,
            text=True,
            timeout=SECILC_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise PolicyError(f"the SELinux policy does not compile: {(done.stderr or done.stdout).strip()[-300:]}")
        return binary.read_bytes()


def boot_payload(plan: NodePlan, vm: Vm) -> dict[str, bytes]:
    """Further fw_cfg files of a VM: its rules and policy are in force before its network is up."""
    if vm.kind is VmKind.FS:
        service = _file_service(plan, vm)
        return {"policy": compile_policy(service.policy_cil), "shares": _shares(service)}
    if vm.kind is VmKind.FW:
        firewall = _firewall(plan, vm)
        return {"rules": _rules(firewall), "gateways": gateway_table(firewall).encode()}
    return {}


def live_payload(plan: NodePlan, vm: Vm) -> Payload:
    """Commands (and their standard input) that bring a running guest to the plan."""
    if vm.kind is VmKind.FS:
        service = _file_service(plan, vm)
        return [
            (LOAD_POLICY, compile_policy(service.policy_cil)),
            (SHARES_COMMAND, _shares(service)),
        ]
    if vm.kind is VmKind.FW:
        firewall = _firewall(plan, vm)
        # Gateways first: one that lets less through does so before any new rule leads to it.
        return [
            ("/usr/lib/vinci/fw-gateways", gateway_table(firewall).encode()),
            ("/usr/lib/vinci/fw-rules", _rules(firewall)),
        ]
    return []


def _file_service(plan: NodePlan, vm: Vm) -> FileService:
    return next(service for service in plan.file_services if service.vm == vm.name)


def _shares(service: FileService) -> bytes:
    return share_table(service.shares, service.members).encode()


def _firewall(plan: NodePlan, vm: Vm) -> Firewall:
    return next(firewall for firewall in plan.firewalls if firewall.vm == vm.name)


def _rules(firewall: Firewall) -> bytes:
    return json.dumps(firewall_ruleset(firewall), sort_keys=True).encode()
