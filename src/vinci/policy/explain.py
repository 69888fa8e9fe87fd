# SPDX-License-Identifier: GPL-2.0-or-later
"""Why something is allowed or denied: each step of the reasoning with the line of the file it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vinci.model.complaints import nearest
from vinci.model.infrastructure import Flow, Infrastructure, Operation, Service
from vinci.model.labels import RULES, Lattice, PlannedLabel
from vinci.model.problems import ModelPath
from vinci.model.services import ServiceError, resolve_service, service_name
from vinci.model.source import Position, Source
from vinci.policy.access import Access, access, grantees


class QuestionError(ValueError):
    """A question about things that the file does not have; `right` is what could be asked."""

    def __init__(self, wrong: str, right: str) -> None:
        super().__init__(wrong)
        self.right = right


@dataclass(frozen=True, slots=True)
class Ground:
    """One step of the reasoning. `decides` marks the steps on which the answer rests."""

    text: str
    position: Position | None
    decides: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer with its grounds, and what would have to change for the opposite."""

    question: str
    allowed: bool
    grounds: tuple[Ground, ...]
    change: str

    @property
    def answer(self) -> str:
        """The answer in one sentence."""
        return f"{'ALLOWED' if self.allowed else 'DENIED'}: {self.question}"


def explain_access(
    infrastructure: Infrastructure, source: Source, subject: str, operation: str, share: str
) -> Explanation:
    """Whether `subject` (`nurses`, or `nurses:anna`) may do `operation` with `share`, and why. Raises QuestionError."""
    community, _, user = subject.partition(":")
    _known(community, infrastructure.communities, "community")
    _known(operation, [known.value for known in Operation], "operation")
    _known(share, infrastructure.shares, "share")
    wanted = Operation(operation)
    grounds = []
    if user:
        _known(user, infrastructure.users, "user")
        member = community in infrastructure.users[user].communities
        path: ModelPath = ("users", user, "communities", *((community,) if member else ()))
        is_or_not = "is" if member else "is not"
        grounds.append(Ground(f"{user} {is_or_not} in {community}", source.at(path), not member))
        if not member:
            return Explanation(f"{subject} {wanted} {share}", False, tuple(grounds), f"put {user} into {community}")
    answer = access(infrastructure, Lattice(infrastructure.labels), community, user or None, wanted, share)
    grounds += _grant_grounds(infrastructure, source, community, user, wanted, share, answer.granted_by)
    for what, name, label in (("communities", community, answer.subject), ("shares", share, answer.share)):
        title = f"share {name}" if what == "shares" else name
        grounds.append(Ground(f"{title} has the label {label.text}", source.at((what, name, "label")), False))
    if answer.labels_permit:
        verdict = f"the labels permit it: {RULES[wanted]}"
    else:
        verdict = f"the labels forbid it: {RULES[wanted]}; {_difference(infrastructure, wanted, answer)}"
    grounds.append(Ground(verdict, None, not answer.labels_permit and answer.trusted is None))
    if answer.trusted is not None:
        path = ("shares", share, "trusted")
        grounds.append(Ground(f"{community} is trusted all the same: {answer.trusted}", source.at(path), True))
    change = _opposite(subject, wanted, share, answer)
    return Explanation(f"{subject} {wanted} {share}", answer.allowed, tuple(grounds), change)


def explain_connection(
    infrastructure: Infrastructure, source: Source, client: str, server: str, service: str
) -> Explanation:
    """Whether VMs of `client` may open connections to `service` in `server`, and why. Raises QuestionError."""
    _known(client, infrastructure.communities, "community")
    _known(server, infrastructure.communities, "community")
    try:
        wanted = resolve_service(infrastructure, service)
    except (ServiceError, ValueError) as error:
        raise QuestionError(str(error), "ask for https, for one of `services`, or for tcp/8080") from None
    name = service_name(infrastructure, wanted)
    question = f"{client} -> {server} {name}"
    if client == server:
        return _own_network(infrastructure, source, client, question)
    resolve = Lattice(infrastructure.labels).resolve
    own, other = (resolve(infrastructure.communities[community].label) for community in (client, server))
    grounds = [
        Ground(f"{community} has the label {label.text}", source.at(("communities", community, "label")), False)
        for community, label in ((client, own), (server, other))
    ]
    number = _flow_number(infrastructure, client, server, wanted)
    if number is None:
        grounds += _no_flow(infrastructure, source, client, server, name)
        needed = ([] if own.dominates(other) else ["`upward: true`"]) + (
            [] if own.equals(other) else ["`trusted: true`"]
        )
        why = f" with {', '.join(needed)} and `reason: …`, for its questions or its answers lead down" if needed else ""
        return Explanation(question, False, tuple(grounds), f"declare a flow from {client} to {server}{why}")
    flow, path = infrastructure.flows[number], ("flows", number)
    grounds.append(Ground(f"a flow permits {client} to reach {name} of {server}", source.at(path), True))
    if flow.upward:
        grounds.append(Ground(f"it leads upward, declared: {flow.reason}", source.at((*path, "upward")), False))
    if flow.trusted:
        grounds.append(Ground(f"what it passes down is trusted: {flow.reason}", source.at((*path, "trusted")), False))
    grounds += _gateway(flow, source, path)
    return Explanation(question, True, tuple(grounds), "remove the flow")


def _grant_grounds(
    infrastructure: Infrastructure,
    source: Source,
    community: str,
    user: str,
    wanted: Operation,
    share: str,
    granted_by: ModelPath | None,
) -> Iterable[Ground]:
    declared = infrastructure.shares[share].access
    if granted_by is not None:
        grantee = str(granted_by[-1])
        operations = ", ".join(declared[grantee])
        return [Ground(f"{grantee} may {operations} share {share}", source.at(granted_by), True)]
    named = [grantee for grantee in grantees(community, user or None) if grantee in declared]
    if not named:
        who = f"neither {community} nor {community}:{user}" if user else community
        text = f"share {share} names {who}" if user else f"share {share} does not name {who}"
        return [Ground(text, source.at(("shares", share, "access")), True)]
    return [
        Ground(
            f"{grantee} may only {', '.join(declared[grantee])} share {share}",
            source.at(("shares", share, "access", grantee)),
            True,
        )
        for grantee in named
    ]


def _difference(infrastructure: Infrastructure, wanted: Operation, answer: Access) -> str:
    """Which parts of the two labels stand against it."""
    names = infrastructure.labels.categories
    subject, share = answer.subject, answer.share
    if wanted is Operation.APPEND or (wanted is Operation.WRITE and subject.dominates(share)):
        return _lacks("the share", names, share, subject)
    return _lacks("the subject", names, subject, share)


def _lacks(who: str, names: tuple[str, ...], upper: PlannedLabel, lower: PlannedLabel) -> str:
    parts = []
    if upper.level < lower.level:
        parts.append("has a lower level")
    missing = [names[number] for number in sorted(lower.categories - upper.categories)]
    if missing:
        parts.append("lacks " + ", ".join(missing))
    return f"{who} " + " and ".join(parts)


def _opposite(subject: str, wanted: Operation, share: str, answer: Access) -> str:
    if answer.allowed and answer.granted_by is not None:
        return f"take {wanted} on share {share} from {answer.granted_by[-1]}"
    steps = [] if answer.granted_by else [f"grant {wanted} in share {share} to {subject}"]
    if not answer.labels_permit and answer.trusted is None:
        steps.append(f"change a label, or add {subject.partition(':')[0]} to the share's `trusted` with a reason")
    return " and ".join(steps)


def _own_network(infrastructure: Infrastructure, source: Source, community: str, question: str) -> Explanation:
    peers = infrastructure.communities[community].app_vms.peers
    path: ModelPath = ("communities", community, "app_vms", "peers")
    text = f"APP-VMs of {community} may reach each other: peers is {peers}"
    if peers == "all":
        return Explanation(question, True, (Ground(text, source.at(path), True),), "set `peers: none`")
    text = f"APP-VMs of {community} may not reach each other: peers is {peers}"
    return Explanation(question, False, (Ground(text, source.at(path), True),), "set `peers: all`")


def _flow_number(infrastructure: Infrastructure, client: str, server: str, wanted: Service) -> int | None:
    for number, flow in enumerate(infrastructure.flows):
        if (flow.source, flow.to) == (client, server) and resolve_service(infrastructure, flow.service) == wanted:
            return number
    return None


def _no_flow(infrastructure: Infrastructure, source: Source, client: str, server: str, name: str) -> Iterable[Ground]:
    yield Ground(f"no flow permits {client} to reach {name} of {server}; what is not declared is dropped", None, True)
    for number, flow in enumerate(infrastructure.flows):
        if {flow.source, flow.to} == {client, server}:
            other = service_name(infrastructure, resolve_service(infrastructure, flow.service))
            text = f"there is a flow from {flow.source} to {flow.to}, but to {other}"
            if flow.source == server:
                text = f"there is a flow the other way, from {flow.source} to {flow.to}: {other}"
            yield Ground(text, source.at(("flows", number)), False)


def _gateway(flow: Flow, source: Source, path: ModelPath) -> Iterable[Ground]:
    if flow.inspection is not None:
        what = flow.inspection.model_dump(mode="json", exclude={"gateway"})
        limits = "; ".join(f"{key} {_shown(value)}" for key, value in what.items())
        text = f"a {flow.inspection.gateway} gateway lets through only: {limits}"
        yield Ground(text, source.at((*path, "inspection")), False)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _known(name: str, names: Iterable[str], what: str) -> None:
    known = list(names)
    if name not in known:
        close = nearest(name, known[:5000])
        right = f'did you mean "{close}"?' if close else "known: " + ", ".join(known[:6])
        raise QuestionError(f'unknown {what} "{name}"', right)
