# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMs that were found compromised and not released since. Durable: a killed agent's successor knows them all."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from dataclasses import asdict, replace

from vinci.introspect.findings import Check, Finding, Look, Severity
from vinci.model.infrastructure import Response
from vinci.plan.types import Vm
from vinci.store.sqlite import Incident, Store

_LOG = logging.getLogger(__name__)
MAX_FINDINGS = 200
"""Of one incident; a guest can make up ever new ones. The last tells that there were more."""


class Incidents:
    """Open incidents by VM. What is kept in memory holds; the disk follows as soon as it takes it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open = {incident.vm: incident for incident in store.incidents()}
        self._found = {vm: _decoded(incident.findings) for vm, incident in self._open.items()}
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
        self._open[vm.name] = Incident(vm.name, vm.response.value, time.time(), "[]")
        self._keep(vm.name, tampering(look)[:MAX_FINDINGS])

    def add(self, vm: str, look: Look) -> tuple[Finding, ...]:
        """Keep what a look found that is new to its VM's incident; that."""
        known = self._found[vm]
        new = tuple(dict.fromkeys(finding for finding in tampering(look) if finding not in known))
        room = MAX_FINDINGS - len(known)
        if len(new) >= room > 0:
            new = (*new[: room - 1], replace(new[room - 1], what="more was found than is kept", where=""))
        new = new[:room]
        if new:
            self._keep(vm, (*known, *new))
        return new

    def _keep(self, vm: str, found: tuple[Finding, ...]) -> None:
        self._found[vm] = found
        self._open[vm] = replace(self._open[vm], findings=json.dumps(self.findings(vm)))
        self._unwritten.add(vm)
        self.tidy()

    def findings(self, vm: str) -> list[dict[str, str]]:
        """All that was found in a VM's open incident, in the order in which it was found, as plain data."""
        return [{key: str(value) for key, value in asdict(finding).items()} for finding in self._found.get(vm, ())]

    def close(self, vm: str) -> None:
        """End one.

        Raises:
            sqlite3.Error: the disk does not take it; the incident stays open.
        """
        self._store.close_incident(vm)
        self._open.pop(vm, None)
        self._found.pop(vm, None)
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


def tampering(look: Look) -> tuple[Finding, ...]:
    """What in a look speaks against its VM; a check that failed is a finding too."""
    failed = [Finding(row.check, f"{row.check} failed: {row.error}", "") for row in look.results if row.error]
    found = [f for row in look.results for f in row.findings if f.severity is Severity.TAMPERED]
    return (*failed, *found)


def _decoded(findings: str) -> tuple[Finding, ...]:
    try:
        return tuple(
            Finding(Check(f["check"]), f["what"], f["where"], Severity(f["severity"])) for f in json.loads(findings)
        )
    except (ValueError, KeyError, TypeError):  # another version's: the incident is open all the same
        return ()
