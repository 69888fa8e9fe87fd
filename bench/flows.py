# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the proof of flows and its questions take: 1,000 communities, 10,000 VMs, 2,000 shares, 5,000 flows.

Run: .venv/bin/python bench/flows.py [VMs …]
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import pairwise
from statistics import median

from big_file import big_file
from check import timed

from vinci.cli.records import explain_record
from vinci.model.load import parse
from vinci.plan.addresses import app_vm_address, community_networks
from vinci.policy.changes import flow_changes
from vinci.policy.cut import smallest_change
from vinci.policy.explain import explain_access, explain_connection
from vinci.policy.flows import analyse

SIZES = (1_000, 10_000)
QUESTIONS = 50


def measure(vms: int) -> str:
    """One line of figures."""
    declaration = parse(big_file(vms).encode(), "big.yaml")
    infrastructure, source = declaration.infrastructure, declaration.source
    analysis, proving = timed(lambda: analyse(infrastructure))
    _, closing = timed(lambda: sum(1 for _ in analysis.passages()))
    shares = list(infrastructure.shares)[:QUESTIONS]
    flows = infrastructure.flows[-QUESTIONS:]
    accesses = [timed(partial(explain_access, infrastructure, source, "com1", "write", share))[1] for share in shares]
    connections = [
        timed(partial(explain_connection, infrastructure, source, flow.source, flow.to, "tcp/8000"))[1]
        for flow in flows
    ]
    networks = community_networks(infrastructure)
    ends = [app_vm_address(networks[flow.source], 0) for flow in flows]
    records = [
        {"event": "flow-denied", "reason": "not-declared", "protocol": "TCP", "target_port": "22"}
        | {"claimed_source": str(own), "claimed_target": str(other)}
        for own, other in pairwise(ends)
    ]
    events = [timed(partial(explain_record, declaration, record))[1] for record in records]
    _, cutting = timed(lambda: smallest_change(analysis.graph, "com0", "com9", lambda _hop: True))
    fewer = infrastructure.model_copy(update={"flows": infrastructure.flows[1:]})
    _, changing = timed(lambda: flow_changes(fewer, infrastructure))
    return (
        f"{vms:6} {len(analysis.graph.hops):6} {proving:8.2f}s {closing:10.2f}s {median(accesses) * 1000:14.2f}ms"
        f" {median(connections) * 1000:18.2f}ms {median(events) * 1000:13.2f}ms {cutting:16.2f}s {changing:15.2f}s"
    )


def main(sizes: list[int]) -> None:
    """Print one line a size; CPU time."""
    print(
        "   VMs   hops   analyse   all pairs   explain access   explain connection   explain event"
        "   smallest change   change of file"
    )
    for vms in sizes:
        print(measure(vms), flush=True)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or list(SIZES))
