# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a record of the audit was a denial: the rule, the place that enforced it, and the lines of the file it rests on.

Pure. The declaration is the one in force now; a record made under an older one may say otherwise, and is told so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from vinci.model.infrastructure import Operation
from vinci.model.labels import Lattice
from vinci.model.load import Declaration
from vinci.model.problems import ModelPath
from vinci.node.audit import Event
from vinci.plan.bridge_filter import DropReason
from vinci.plan.compile import compile_plan
from vinci.plan.types import Nic, Plan, PlannedCommunity, Vm
from vinci.policy.access import access
from vinci.policy.explain import Explanation, Ground, explain_access
from vinci.policy.flows import hop_text
from vinci.policy.graph import HopKind, PlaceKind, flow_graph

Record = Mapping[str, Any]


class NotADenialError(Exception):
    """The record tells of something else than a denial."""


@dataclass(frozen=True, slots=True)
class Denial:
    """What denied it (`rule`), where (`place`), and why."""

    place: str
    rule: str
    explanation: Explanation


def explain_denial(declaration: Declaration, record: Record) -> Denial:
    """Why the thing that `record` tells of was denied.

    Raises:
        NotADenialError: nothing was denied.
        QuestionError: the declaration in force no longer has what the record names.
    """
    explainers: Mapping[str, Callable[[Declaration, Record], Denial]] = {
        Event.FILE_DENIED: _file,
        Event.PACKET_DROPPED: _packet,
        Event.LOGIN_DENIED: _login,
    }
    event = str(record.get("event"))
    if event not in explainers:
        kinds = ", ".join(explainers)
        raise NotADenialError(f"record {record.get('id')} is a {event}: denials are {kinds}")
    return explainers[event](declaration, record)


def _ground(declaration: Declaration, text: str, path: ModelPath | None, decides: bool = True) -> Ground:
    return Ground(text, declaration.source.at(path) if path is not None else None, decides)


# -- files -----------------------------------------------------------------------------------------------------------

_WRITE = frozenset({"write", "setattr", "unlink", "link", "rename", "remove_name", "rmdir", "reparent"})
_APPEND = frozenset({"append", "create", "add_name"})
_UNKNOWN_SUBJECT = "no grant for this address and UID"
_FILE_MODE = "file mode"
_APPEND_ONLY = "append-only"


def _file(declaration: Declaration, record: Record) -> Denial:
    server, reason = str(record.get("server", "?")), str(record.get("reason", ""))
    subject = str(record.get("subject", "")).split(":")
    if reason == _UNKNOWN_SUBJECT or len(subject) < 4:
        return _unknown_subject(declaration, record, server)
    community, user, share = subject[1].removesuffix("_r"), _person(subject[0]), str(record.get("share", ""))
    if subject[2] == f"{community}_mount_t":
        return _root(declaration, community, share, server)
    operation = Operation.APPEND if reason.startswith(_APPEND_ONLY) else operation_of(record)
    explanation = explain_access(
        declaration.infrastructure, declaration.source, f"{community}:{user}", operation.value, share
    )
    if reason == _FILE_MODE:
        text = (
            "the declaration gives the right; the file's owner has withheld it (see `ls -l`), or it is another's home"
        )
        place, rule = f"the file on FS-VM {server}", "Unix owner and mode of the file"
        return Denial(place, rule, _denied_all_the_same(explanation, text, "the owner may change the mode of the file"))
    if reason.startswith(_APPEND_ONLY):
        place, rule = f"FS-VM {server}, append check (vinci_nfsd)", reason
        text = "who may append may not change what is stored"
        return Denial(place, rule, _denied_all_the_same(explanation, text, f"grant write on share {share}"))
    if explanation.allowed:
        rule = "the policy in force then; the declaration in force now permits it"
        return Denial(f"SELinux on FS-VM {server}", rule, explanation)
    return Denial(
        f"SELinux on FS-VM {server}", _selinux_rule(declaration, record, community, user, operation), explanation
    )


def _denied_all_the_same(explanation: Explanation, text: str, change: str) -> Explanation:
    if not explanation.allowed:
        return explanation
    grounds = [replace(ground, decides=False) for ground in explanation.grounds]
    return Explanation(explanation.question, False, (*grounds, Ground(text, None, True)), change)


def operation_of(record: Record) -> Operation:
    """The operation of the declaration that covers the permissions which were denied."""
    denied = set(str(record.get("permissions", "")).split())
    if record.get("class") == "dir" and "write" in denied:
        denied = denied - {"write"} or {"add_name"}  # every change of a directory asks for this one
    if denied & _WRITE:
        return Operation.WRITE
    if denied & _APPEND:
        return Operation.APPEND
    return Operation.EXECUTE if "execute" in denied else Operation.READ


def _selinux_rule(declaration: Declaration, record: Record, community: str, user: str, operation: Operation) -> str:
    infrastructure, share = declaration.infrastructure, str(record.get("share", ""))
    answer = access(infrastructure, Lattice(infrastructure.labels), community, user, operation, share)
    subject, target = (str(record.get(key, "")).split(":") for key in ("subject", "target"))
    what = f"{record.get('class', 'file')} {{ {record.get('permissions', '')} }}"
    rules = []
    if answer.granted_by is None:
        rules.append(f"no `allow {subject[2]} {target[2]} : {what}`")
    if not answer.labels_permit and answer.trusted is None:
        labels = f"{':'.join(subject[3:])} against {':'.join(target[3:])}"
        rules.append(f"`mlsconstrain {what}`: {labels}")
    return "; ".join(rules)


def _person(selinux_user: str) -> str:
    """`anna_u` -> `anna`; a login name that starts with `_` has a `U` before it (policy/cil.py)."""
    return selinux_user.removesuffix("_u").removeprefix("U")


def _root(declaration: Declaration, community: str, share: str, server: str) -> Denial:
    text = f"UID 0 of an APP-VM of {community} may mount the community's shares and do nothing else"
    ground = _ground(declaration, text, ("communities", community))
    question = f"UID 0 of {community} uses share {share}"
    explanation = Explanation(question, False, (ground,), "log in as a user of the community")
    return Denial(
        f"SELinux on FS-VM {server}", f"`{community}_mount_t` has `getattr` on shares' roots only", explanation
    )


def _unknown_subject(declaration: Declaration, record: Record, server: str) -> Denial:
    infrastructure = declaration.infrastructure
    uid, address = record.get("uid"), str(record.get("address", "?"))
    plan = compile_plan(infrastructure)
    vm = next((vm for vm, nic in _cards(plan) if str(nic.address) == address), None)
    grounds = []
    if vm is None or vm.community is None:
        grounds.append(_ground(declaration, f"no APP-VM has the address {address}", ("communities",)))
    else:
        member = next((m for m in plan.members if m.community == vm.community and m.local_uid == uid), None)
        if uid == 0:
            text = f"UID 0 of {vm.name} may mount only while somebody is logged in there"
            grounds.append(_ground(declaration, text, ("communities", vm.community)))
        elif member is None:
            text = f"UID {uid} is no user of {vm.community}, whose APP-VM {vm.name} asked"
            grounds.append(_ground(declaration, text, ("communities", vm.community)))
        else:
            path: ModelPath = ("users", member.user, "communities", vm.community)
            text = f"UID {uid} is {member.user} there, who was not logged in on {vm.name}"
            grounds.append(_ground(declaration, text, path))
    explanation = Explanation(f"UID {uid} at {address} uses {server}", False, tuple(grounds), "log in: `vinci login`")
    return Denial(f"FS-VM {server}, table of subjects", "only users who are logged in now have a subject", explanation)


# -- packets ---------------------------------------------------------------------------------------------------------

_RULES: Mapping[DropReason, tuple[str, str]] = {
    DropReason.UNKNOWN_PORT: ("a port that no rule knows passes nothing", "declare a VM there"),
    DropReason.QUARANTINED: ("a VM in quarantine passes nothing", "an administrator ends the quarantine"),
    DropReason.VLAN: ("VLAN-tagged frames do not pass", "send untagged frames"),
    DropReason.ROUTER_ADVERTISEMENT: ("nobody announces itself as a router", "nothing: routes are given by the plan"),
    DropReason.IPV6: ("IPv6 does not pass", "use IPv4"),
    DropReason.ETHERTYPE: ("only IPv4 and ARP pass", "use IPv4"),
    DropReason.SPOOFED_MAC: ("a port sends from its own MAC address only", "use the card as it is"),
    DropReason.SPOOFED_ARP: ("a port claims its own addresses only", "use the assigned address"),
    DropReason.DHCP: ("addresses are assigned by the plan: no DHCP", "use the assigned address"),
    DropReason.SPOOFED_IP: ("a port sends from its own IP address only", "use the assigned address"),
    DropReason.BROADCAST: ("no broadcast but ARP passes", "address one VM"),
    DropReason.REDIRECT: ("no ICMP redirect passes", "nothing: routes are given by the plan"),
    DropReason.NOT_A_PEER: ("frames pass between declared pairs only", "declare a flow, a share or `peers: all`"),
}
_IDENTITY = {DropReason.SPOOFED_MAC, DropReason.SPOOFED_ARP, DropReason.SPOOFED_IP, DropReason.DHCP}


def _packet(declaration: Declaration, record: Record) -> Denial:
    try:
        reason = DropReason(str(record.get("reason")))
    except ValueError:
        raise NotADenialError(f"record {record.get('id')} tells of lost records, not of one packet") from None
    rule, change = _RULES[reason]
    port, claimed = str(record.get("port", "?")), record.get("claimed_target")
    plan = compile_plan(declaration.infrastructure)
    sender = next(((vm, nic) for vm, nic in _cards(plan) if nic.tap == port), None)
    grounds = []
    if sender is not None and sender[0].community is not None:
        vm, nic = sender
        path: ModelPath = ("communities", str(vm.community), "network")
        own = f"{vm.name} of {vm.community} has the address {nic.address} and the MAC {nic.mac}"
        grounds.append(_ground(declaration, own, path, reason in _IDENTITY))
        if reason is DropReason.QUARANTINED:
            path = ("communities", str(vm.community), "response")
            grounds.append(_ground(declaration, "the community's declared response", path))
        if reason is DropReason.NOT_A_PEER:
            grounds += _between(declaration, plan, vm, claimed)
    question = f"a frame from {record.get('claimed_source') or port} to {claimed or 'others'} at {port}"
    explanation = Explanation(question, False, tuple(grounds), change)
    network = sender[1].bridge if sender else "the node"
    return Denial(f"bridge {network}, port {port}", f"{reason}: {rule}", explanation)


def _between(declaration: Declaration, plan: Plan, vm: Vm, claimed: object) -> list[Ground]:
    """What the file permits between the sender and the one it wanted to reach."""
    infrastructure, own = declaration.infrastructure, str(vm.community)
    target = next((other for other, nic in _cards(plan) if str(nic.address) == claimed), None)
    if target is None:
        network = next((c.name for c in plan.communities if _is_in(claimed, c)), None)
        text = f"{claimed} is no VM's address" + (f", though in the network of {network}" if network else "")
        return [_ground(declaration, text, ("communities", network) if network else None)]
    if target.community is None:
        text = f"{target.name} serves {own} only at its own address in the network of {own}"
        return [_ground(declaration, text, ("file_servers", target.name))]
    if target.community == own:
        peers = infrastructure.communities[own].app_vms.peers
        path: ModelPath = ("communities", own, "app_vms", "peers")
        return [_ground(declaration, f"{target.name} is in the same network, where peers is {peers}", path)]
    hops = [
        hop
        for hop in flow_graph(infrastructure).hops
        if hop.kind is HopKind.REQUEST and {hop.source.name, hop.target.name} == {own, target.community}
    ]
    if not hops:
        text = f"no flow is declared between {own} and {target.community}, where {target.name} is"
        return [_ground(declaration, text, ("flows",))]
    assert all(hop.source.kind is PlaceKind.COMMUNITY for hop in hops)
    return [_ground(declaration, f"declared: {hop_text(infrastructure, hop)}", hop.path) for hop in hops]


def _is_in(claimed: object, community: PlannedCommunity) -> bool:
    try:
        return IPv4Address(str(claimed)) in community.network
    except ValueError:
        return False


def _cards(plan: Plan) -> list[tuple[Vm, Nic]]:
    return [(vm, nic) for node in plan.nodes for vm in node.vms for nic in vm.nics]


# -- logins ----------------------------------------------------------------------------------------------------------


def _login(declaration: Declaration, record: Record) -> Denial:
    user, reason = str(record.get("user", "?")), str(record.get("reason", ""))
    declared = declaration.infrastructure.users.get(user)
    change = "set a password: `vinci passwd`"
    if declared is None:
        grounds = [_ground(declaration, f"no user {user} is declared", ("users",))]
        change = "declare the user"
    else:
        member = " and ".join(declared.communities)
        wrong_community = "community" in reason
        path: ModelPath = ("users", user, "communities" if wrong_community else "password_hash")
        text = (
            f"{user} is in {member}"
            if wrong_community
            else f"the password is that of this line, or set later: {reason}"
        )
        grounds = [_ground(declaration, text, path)]
        if wrong_community:
            change = "put the user into the community"
    explanation = Explanation(f"login of {user}", False, tuple(grounds), change)
    return Denial("the A-VM (node's agent), authentication", reason, explanation)
