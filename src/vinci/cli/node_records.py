# SPDX-License-Identifier: GPL-2.0-or-later
"""What decided about a record that tells of no request: trust in a VM, machines, declarations, administrators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vinci.cli.decision import Decision, Record, ground
from vinci.model.infrastructure import Infrastructure
from vinci.model.load import Declaration
from vinci.model.machines import app_vm_names, firewall_name, members_of
from vinci.model.problems import ModelPath
from vinci.node.audit import Event
from vinci.policy.explain import Explanation, Ground


@dataclass(frozen=True, slots=True)
class _Told:
    """What one kind of record stands for. In `question` and `rule`, {…} are fields of the record."""

    place: str
    question: str
    allowed: bool
    rule: str
    change: str
    response: bool = False
    """True when the line that decides is the VM's declared `response`."""


_AGENT = "the A-VM (node's agent)"
_SWEEP = f"{_AGENT}, introspection: the guest's memory and registers, read from outside"
_SOCKET = f"{_AGENT}, the socket of its API"
_RECONCILER = f"{_AGENT}, comparison of the declaration with what runs"

_TOLD: Mapping[Event, _Told] = {
    Event.VM_TRUSTED: _Told(
        _SWEEP, "VM {vm} is trusted", True, "every check of a whole look explained what it found", "nothing"
    ),
    Event.VM_COMPROMISED: _Told(
        _SWEEP,
        "VM {vm} stays trusted",
        False,
        "what the certified image does not explain is tampering; the declared response is {response}",
        "look into it (`vinci inspect {vm} --save DIR`), start the VM anew, then `vinci release {vm} --reason TEXT`",
        response=True,
    ),
    Event.VM_QUARANTINED: _Told(
        f"{_AGENT}, rules of the bridges and grants on FS-VMs",
        "VM {vm} takes part",
        False,
        "a VM in quarantine passes nothing, and its users have no rights on files",
        "`vinci release {vm} --reason TEXT`, after a clean look",
        response=True,
    ),
    Event.VM_RELEASED: _Told(
        _AGENT,
        "VM {vm} takes part again",
        True,
        "{administrator} released it after a whole clean look: {reason}",
        "nothing: what is found again is answered again",
        response=True,
    ),
    Event.VM_UNCHECKED: _Told(
        _SWEEP, "VM {vm} is trusted", False, "only what was looked at whole and in time is trusted: {reason}",
        "`vinci inspect {vm}`",
    ),
    Event.VM_UNREACHABLE: _Told(
        _AGENT, "VM {vm} is trusted", False, "what cannot be asked or read is not trusted",
        "`vinci console {vm}` tells what it said last",
    ),
    Event.CHECKER_FAILED: _Told(
        _SWEEP, "VMs are trusted", False, "the process that looks has failed ({reason}): nothing was looked at",
        "nothing: it is started again",
    ),
    Event.VM_STARTED: _Told(_RECONCILER, "VM {vm} runs", True, "it is declared, or a login asked for it", "remove it"),
    Event.VM_STOPPED: _Told(
        _RECONCILER, "VM {vm} runs", False, "what is not declared, changed, or not in use does not run", "declare it"
    ),
    Event.LOGOUT: _Told(
        f"{_AGENT}, sessions", "{user} is in {community} on {vm}", False,
        "the session ended, and with it the user's rights on files", "`vinci login {user}`",
    ),
    Event.DECLARATION: _Told(
        _AGENT, "the declaration is in force", True, "it is valid, and every way down in it is explained", "change it"
    ),
    Event.DECLARATION_REFUSED: _Told(
        _AGENT, "the stored declaration is in force", False, "what does not validate gives nobody a right",
        "`vinci up FILE` with one that does",
    ),
    Event.RULES_REPLACED: _Told(
        _RECONCILER, "other rules are in force", True, "they are made from the declaration", "change the declaration"
    ),
    Event.GRANTS_REPLACED: _Told(
        _RECONCILER, "other grants are in force", True, "who is logged in has them, and nobody else", "log out"
    ),
    Event.API_DENIED: _Told(
        _SOCKET, "UID {uid} asks the agent", False,
        "root administers; members of the group vinci log in and look; a request has the form of the reference",
        "ask as root, or join the group vinci",
    ),
    Event.ADMIN_EXEC: _Told(
        _SOCKET, "UID {uid} runs a command in {vm}", True, "root of the node administers its VMs", "nothing"
    ),
    Event.PASSWORD: _Told(
        _SOCKET, "the password of {user} is set", True, "root of the node administers its users", "nothing"
    ),
    Event.AGENT: _Told(_AGENT, "the agent runs", True, "root started it", "`vinci down`"),
    Event.OPERATION_FAILED: _Told(
        _AGENT, "the operation", False, "what cannot be done whole leaves what was in force, or closes it",
        "mend the cause that the record names",
    ),
    Event.RECORDS_LEFT_OUT: _Told(
        f"{_AGENT}, bounds of the audit", "each of these denials has a record", False,
        "so many records a second of one source are kept; what they tell of was denied all the same",
        "ask the source to stop",
    ),
}  # fmt: skip


class _Fields(dict[str, object]):
    """A record's fields; what it does not have is told as such."""

    def __missing__(self, key: str) -> str:
        return f"(no {key})"


def explain_happening(declaration: Declaration, record: Record, event: Event) -> Decision:
    """What decided about a record of any event that is not a denied or permitted request."""
    told, fields = _TOLD[event], _Fields(record)
    question = told.question.format_map(fields)
    grounds = [Ground(str(record.get("message", "")), None, not told.response)]
    grounds += _machine(declaration, str(record["vm"]), told.response) if record.get("vm") else []
    rule, change = told.rule.format_map(fields), told.change.format_map(fields)
    explanation = Explanation(question, told.allowed, tuple(grounds), change)
    return Decision(told.place, f"{event}: {rule}", explanation, told.allowed)


def explained_so() -> frozenset[Event]:
    """The events of this room."""
    return frozenset(_TOLD)


def _machine(declaration: Declaration, vm: str, response: bool) -> list[Ground]:
    """Where a VM is declared, and what is to be done when it is tampered with."""
    infrastructure = declaration.infrastructure
    if vm in infrastructure.file_servers:
        return [ground(declaration, f"{vm} is a file server", ("file_servers", vm), decides=response)]
    community = _community_of(infrastructure, vm)
    if community is None:
        return [ground(declaration, f"{vm} is not declared any more", None)]
    path: ModelPath = ("communities", community)
    grounds = [ground(declaration, f"{vm} is a VM of {community}", path, decides=False)]
    if response:
        text = f"the response for {community} is {infrastructure.communities[community].response}"
        grounds.append(ground(declaration, text, (*path, "response")))
    return grounds


def _community_of(infrastructure: Infrastructure, vm: str) -> str | None:
    members = members_of(infrastructure)
    for name, community in infrastructure.communities.items():
        if vm == firewall_name(name) or any(vm == own for own, _ in app_vm_names(name, community, members[name])):
            return name
    return None
