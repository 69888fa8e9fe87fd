# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a gateway on an FW-VM let a request not through (`request-denied`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vinci.cli.decision import Decision, Record, UnexplainedError, gone, ground
from vinci.guest.gateway.protocol import Reason
from vinci.model.infrastructure import Flow
from vinci.model.load import Declaration
from vinci.model.services import resolve_service
from vinci.plan.directory import Directory
from vinci.policy.explain import Explanation, Ground, explain_connection


@dataclass(frozen=True, slots=True)
class _Told:
    """What a reason stands for. `by_line`: the flow's `inspection` decides, not the gateway's own bounds."""

    rule: str
    change: str
    by_line: bool = False


_NAMED = _Told(
    "only requests that the declaration names pass", "name it under `inspection` of the flow, if it is meant", True
)
_WHOLE = _Told("only what the protocol's standard writes passes, one whole request at a time", "mend the client")

_TOLD: Mapping[Reason, _Told] = {
    Reason.OPERATION: _NAMED,
    Reason.UNIT: _NAMED,
    Reason.PLACE: _NAMED,
    Reason.RATE: _Told("only so many requests a second pass", "raise `rate` under `inspection` of the flow", True),
    Reason.OVERSIZED: _Told(
        "a request of this size does not pass: the protocol has a bound, and for http so has `max_body_bytes`",
        "send less, or raise `max_body_bytes` under `inspection` of an http flow", True,
    ),
    Reason.MALFORMED: _WHOLE,
    Reason.FRAGMENTED: _WHOLE,
    Reason.PIPELINED: _WHOLE,
    Reason.CONNECTIONS: _Told("a gateway serves so many connections of one client at a time", "close some of them"),
    Reason.SLOW: _Told("a request has to be whole in time, however it is cut", "mend the client, or its way here"),
    Reason.UNREACHABLE: _Told(
        "the request may pass, and the target took no connection or gave no answer in time", "start the service there"
    ),
    Reason.ANSWER: _Told("an answer passes only if it is one to the request", "mend the service at the target"),
    Reason.UNDECLARED_PEER: _Told(
        "a gateway serves only the clients and targets of its flow", "nothing: rules lead nobody else there"
    ),
    Reason.FAULT: _Told("what the gateway cannot judge does not pass", "report it: this is a defect of Vinci"),
}  # fmt: skip


def explain_request(declaration: Declaration, record: Record) -> Decision:
    """What decided, with the flow's lines as they are now; where the file says otherwise by now, that is told.

    Raises:
        UnexplainedError: the reason is none that a gateway gives.
    """
    try:
        reason = Reason(str(record.get("reason")))
    except ValueError:
        text = f"record {record.get('id')} gives no reason that is known: {str(record.get('reason'))[:64]}"
        raise UnexplainedError(text) from None
    told, between = _TOLD[reason], _between(declaration, record)
    question = f"{' asks '.join(between) if between else 'somebody'}: {record.get('request') or 'no request'}"
    place, rule = f"the gateway on FW-VM {record.get('firewall', '?')}", f"{reason}: {told.rule}"
    number, remarks = _flow(declaration, record, between)
    if number is None:
        return Decision(place, rule, gone(question, remarks[0].text, told.change))
    flow = declaration.infrastructure.flows[number]
    assert flow.inspection is not None
    service = resolve_service(declaration.infrastructure, flow.service)
    answer = explain_connection(
        declaration.infrastructure, declaration.source, flow.source, flow.to, f"{service.protocol}/{service.port}"
    )
    # The flow is permitted; what is inspected decides, and it is told last.
    grounds = [replace(each, decides=told.by_line and each is answer.grounds[-1]) for each in answer.grounds]
    if not told.by_line:
        grounds.append(Ground(told.rule, None, True))
    place = f"the {flow.inspection.gateway} gateway on FW-VM {record.get('firewall', '?')}"
    return Decision(place, rule, Explanation(question, False, (*grounds, *remarks), told.change))


def _between(declaration: Declaration, record: Record) -> tuple[str, str] | None:
    """The communities of the flow that the record tells of."""
    source, arrow, to = str(record.get("flow", "")).partition(" -> ")
    if arrow:
        return source, to
    directory = Directory(declaration.infrastructure)  # a record of an older version has only addresses
    cards = [directory.card_at(record.get(key)) for key in ("claimed_source", "claimed_target")]
    names = [card.community for card in cards if card is not None and card.community is not None]
    return (names[0], names[1]) if len(names) == 2 else None


def _flow(
    declaration: Declaration, record: Record, between: tuple[str, str] | None
) -> tuple[int | None, tuple[Ground, ...]]:
    """The number that the flow has now, and what is to be said about that; None where it is not declared any more."""
    inspected = {
        number: flow
        for number, flow in enumerate(declaration.infrastructure.flows)
        if flow.inspection is not None and between == (flow.source, flow.to)
    }
    recorded = record.get("flow_number")
    if not inspected:
        what = f"from {between[0]} to {between[1]} " if between else ""
        return None, (Ground(f"no flow {what}with a gateway is declared any more", None, True),)
    if len(inspected) > 1:
        return _one_of(declaration, inspected, recorded)
    (number,) = inspected
    if number == recorded:
        return number, ()
    return number, (
        ground(declaration, f"it was flow {_counted(recorded)} of the file then", ("flows", number), False),
    )


def _one_of(
    declaration: Declaration, inspected: Mapping[int, Flow], recorded: object
) -> tuple[int, tuple[Ground, ...]]:
    number = recorded if isinstance(recorded, int) and recorded in inspected else min(inspected)
    others = [
        ground(declaration, "or it was this flow, if the file was another then", ("flows", other), False)
        for other in inspected
        if other != number
    ]
    return number, tuple(others)


def _counted(recorded: object) -> object:
    return recorded + 1 if isinstance(recorded, int) else "(no number)"
