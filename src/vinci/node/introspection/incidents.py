# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMs that were found compromised and not released since. Durable: a killed agent's successor knows them all."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from dataclasses import asdict

from vinci.introspect.findings import Look
from vinci.model.infrastructure import Response
from vinci.plan.types import Vm
from vinci.store.sqlite import Incident, Store

_LOG = logging.getLogger(__name__)


class Incidents:
    """Open incidents by VM. What is kept in memory holds; the disk follows as soon as it takes it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open = {incident.vm: incident for incident in store.incidents()}
        self._unwritten: set[str] = set()

    def of(self, vm: str) -> Incident | None:
        """A VM's incident."""
        return self._open.get(vm)

    @property
    def vms(self) -> frozenset[str]:
        """All VMs with an incident."""
        return frozenset(self._open)

    @property
    def confined(self) -> frozenset[str]:
        """VMs whose ports pass nothing and whose users have no rights on files. Safe to ask from any thread."""
        return frozenset(i.vm for i in list(self._open.values()) if Response(i.response) is not Response.ALERT)

    @property
    def stopped(self) -> frozenset[str]:
        """VMs that must not run."""
        return frozenset(i.vm for i in self._open.values() if Response(i.response) is Response.STOP)

    def open(self, vm: Vm, look: Look) -> None:
        """Begin one, with the response that is declared now."""
        findings = [asdict(finding) for result in look.results for finding in result.findings]
        findings += [{"check": r.check, "error": r.error} for r in look.results if r.error is not None]
        self._open[vm.name] = Incident(vm.name, vm.response.value, time.time(), json.dumps(findings))
        self._unwritten.add(vm.name)
        self.tidy()

    def close(self, vm: str) -> None:
        """End one.

        Raises:
            sqlite3.Error: the disk does not take it; the incident stays open.
        """
        self._store.close_incident(vm)
        self._open.pop(vm, None)
        self._unwritten.discard(vm)

    def tidy(self) -> None:
        """Write what the disk has not taken yet."""
        for vm in sorted(self._unwritten):
            try:
                self._store.open_incident(self._open[vm])
            except sqlite3.Error:
                _LOG.exception("an incident is not on the disk yet")
                return
            self._unwritten.discard(vm)
