# SPDX-License-Identifier: GPL-2.0-or-later
"""What Prometheus reads is its text format, and is what the status report says."""

from __future__ import annotations

import re

from vinci.cli.metrics import prometheus_text

TRUSTED = {"verdict": "trusted", "response": None}
REPORT = {
    "node": "n1",
    "declaration": {"name": "hospital", "path": "h.yaml", "version": 3},
    "agent_memory_mib": 90,
    "denials": {"file-denied": 2, "login": 5},
    "communities": [{"name": "doctors"}, {"name": "nurses"}],
    "sessions": [{"user": "anna", "community": "doctors"}, {"user": "bruno", "community": "doctors"}],
    "vms": [
        {"name": "doctors-1", "kind": "APP", "community": "doctors", "state": "running", "memory_mib": 512,
         "cpu_seconds": 4.5, "trust": {"verdict": "compromised", "response": "quarantine"}},
        {"name": 'odd"\\\n', "kind": "FS", "community": None, "state": "stopped", "memory_mib": 256,
         "cpu_seconds": None, "trust": TRUSTED},
    ],
}  # fmt: skip
SAMPLE = re.compile(r'[a-z_]+\{([a-z]+="(\\[\\n"]|[^"\\\n])*",?)+\} [0-9.e+]+')


def test_the_text_is_what_the_report_says() -> None:
    lines = prometheus_text(REPORT).splitlines()
    doctors = 'node="n1",vm="doctors-1",kind="APP",community="doctors"'
    for line in (
        'vinci_declaration_version{node="n1"} 3',
        'vinci_audit_records_total{node="n1",event="file-denied"} 2',
        'vinci_sessions{node="n1",community="doctors"} 2',
        'vinci_sessions{node="n1",community="nurses"} 0',
        f'vinci_vm_state{{{doctors},state="running"}} 1',
        f'vinci_vm_trust{{{doctors},verdict="compromised",response="quarantine"}} 1',
        f"vinci_vm_memory_bytes{{{doctors}}} 536870912",
        f"vinci_vm_cpu_seconds_total{{{doctors}}} 4.5",
    ):
        assert line in lines


def test_each_line_has_the_form_that_prometheus_reads() -> None:
    samples = [line for line in prometheus_text(REPORT).splitlines() if not line.startswith("# ")]
    assert all(SAMPLE.fullmatch(sample) for sample in samples)
    assert not any("odd" in sample and "cpu" in sample for sample in samples), "a VM that is off has used nothing"


def test_a_node_where_nothing_is_in_force() -> None:
    empty = {**REPORT, "declaration": None, "vms": [{"name": "left", "state": "running"}], "sessions": []}
    del empty["communities"]
    text = prometheus_text(empty)
    assert 'vinci_declaration_version{node="n1"} 0' in text
    assert 'vinci_vm_state{node="n1",vm="left",kind="",community="",state="running"} 1' in text
