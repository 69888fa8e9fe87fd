# SPDX-License-Identifier: GPL-2.0-or-later
"""The second opinion of `vinci check --deep`: compile what would be enforced, read it back, compare."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from vinci.cli.failure import Failure, Status
from vinci.model.infrastructure import Infrastructure
from vinci.node.payload import PolicyError, compile_policy
from vinci.plan.second_opinion import Disagreement, check_files, check_packets
from vinci.plan.types import Plan


def second_opinion(infrastructure: Infrastructure, plan: Plan) -> list[Disagreement]:
    """Everything in which the artefacts made from `plan` differ from the declaration.

    Raises:
        Failure: a policy cannot be compiled, or setools is missing.
    """
    return [*_files(infrastructure, plan), *check_packets(infrastructure, plan)]


def _files(infrastructure: Infrastructure, plan: Plan) -> Iterator[Disagreement]:
    try:
        import setools
    except ImportError:
        raise Failure("the policy cannot be read back: install python3-setools", Status.FAILED) from None
    with tempfile.TemporaryDirectory(prefix="vinci-deep-") as folder:
        binary = Path(folder) / "policy"
        for node in plan.nodes:
            for service in node.file_services:
                try:
                    binary.write_bytes(compile_policy(service.policy_cil))
                except (PolicyError, OSError) as error:
                    raise Failure(f"the policy of {service.vm} cannot be compiled: {error}", Status.FAILED) from None
                yield from check_files(infrastructure, service, setools.SELinuxPolicy(str(binary)))
