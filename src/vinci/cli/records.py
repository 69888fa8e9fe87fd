# SPDX-License-Identifier: GPL-2.0-or-later
"""What decided about a record of the audit: the rule, the place that enforced it, the lines of the file it rests on.

Pure. The declaration is the one in force now; a record made under an older one may say otherwise, and is told so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from vinci.cli.decision import Decision, Record, UnexplainedError, gone, ground
from vinci.cli.node_records import explain_happening
from vinci.cli.packet_records import explain_crossing, explain_packet
from vinci.cli.request_records import explain_request
from vinci.model.infrastructure import Infrastructure, LoginRule, Operation
from vinci.model.labels import Lattice
from vinci.model.load import Declaration
from vinci.model.problems import ModelPath
from vinci.node.audit import Event
from vinci.plan.directory import Directory
from vinci.policy.access import access
from vinci.policy.explain import Explanation, Ground, QuestionError, explain_access

_AUTHENTICATION = "the A-VM (node's agent), authentication"


def explain_record(declaration: Declaration, record: Record) -> Decision:
    """Why the thing that `record` tells of was denied, or permitted, or done.

    Raises:
        UnexplainedError: this version knows no such kind of record, or no such reason.
    """
    explainers: Mapping[Event, Callable[[Declaration, Record], Decision]] = {
        Event.FILE_DENIED: _file,
        Event.PACKET_DROPPED: explain_packet,
        Event.FLOW_DENIED: explain_crossing,
        Event.REQUEST_DENIED: explain_request,
        Event.LOGIN_DENIED: _login,
        Event.LOGIN: _entered,
    }
    try:
        event = Event(str(record.get("event")))
    except ValueError:
        raise UnexplainedError(f"record {record.get('id')} is of no kind that this version knows") from None
    explainer = explainers.get(event)
    return explain_happening(declaration, record, event) if explainer is None else explainer(declaration, record)


# -- files -----------------------------------------------------------------------------------------------------------

_WRITE = frozenset({"write", "setattr", "unlink", "link", "rename", "remove_name", "rmdir", "reparent"})
_APPEND = frozenset({"append", "create", "add_name"})
_UNKNOWN_SUBJECT = "no grant for this address and UID"
_FILE_MODE = "file mode"
_APPEND_ONLY = "append-only"
_NEVER_SERVED = {
    "a session or client ID of another client": "a session belongs to the address that it was made for",
    "share reservations are not served": "a reader could shut writers out by one; no Linux client asks for any",
}
"""Reasons that rest on no grant: what an FS-VM refuses to everybody (guest/kernel/event_lines.c)."""


def _file(declaration: Declaration, record: Record) -> Decision:
    server, reason = str(record.get("server", "?")), str(record.get("reason", ""))
    if reason in _NEVER_SERVED:
        asker = str(record.get("vm") or record.get("address", "?"))
        explanation = gone(f"{asker}: {reason}", _NEVER_SERVED[reason], "nothing: it is refused to everybody")
        return Decision(f"FS-VM {server}, nfsd (vinci_nfsd)", reason, explanation)
    subject = str(record.get("subject", "")).split(":")
    if reason == _UNKNOWN_SUBJECT or len(subject) < 4:
        return _unknown_subject(declaration, record, server)
    community, user, share = subject[1].removesuffix("_r"), _person(subject[0]), str(record.get("share", ""))
    if not share:
        return _no_share(record, community, user, server)
    if subject[2] == f"{community}_mount_t":
        return _root(declaration, community, share, server)
    operation = Operation.APPEND if reason.startswith(_APPEND_ONLY) else operation_of(record)
    who = f"{community}:{user}"
    try:
        explanation = explain_access(declaration.infrastructure, declaration.source, who, operation.value, share)
    except QuestionError as error:
        text = f"the declaration in force has nothing of it any more: {error}"
        explanation = gone(f"{who} {operation} {share}", text, "declare it")
        return Decision(f"FS-VM {server}", "the policy in force then", explanation)
    if reason == _FILE_MODE:
        text = (
            "the declaration gives the right; the file's owner has withheld it (see `ls -l`), or it is another's home"
        )
        place, rule = f"the file on FS-VM {server}", "Unix owner and mode of the file"
        return Decision(
            place, rule, _denied_all_the_same(explanation, text, "the owner may change the mode of the file")
        )
    if reason.startswith(_APPEND_ONLY):
        place, rule = f"FS-VM {server}, append check (vinci_nfsd)", reason
        text = "who may append may not change what is stored"
        return Decision(place, rule, _denied_all_the_same(explanation, text, f"grant write on share {share}"))
    if explanation.allowed:
        rule = "the policy in force then; the declaration in force now permits it"
        return Decision(f"SELinux on FS-VM {server}", rule, explanation)
    return Decision(
        f"SELinux on FS-VM {server}", _selinux_rule(declaration, record, community, user, operation), explanation
    )


def _no_share(record: Record, community: str, user: str, server: str) -> Decision:
    """Something of the server that is no share, as `/srv` itself, where the shares are mounted."""
    who = f"UID 0 of {community}" if user == "vinci" else f"{community}:{user}"
    target = (str(record.get("target", "")).split(":") + ["?"] * 3)[2]
    explanation = gone(
        f"{who} uses what is no share of {server} ({record.get('name') or target})",
        "the declaration gives rights on shares, and on nothing else of a file server",
        "use a share",
    )
    rule = f"no `allow` of a user's type on `{target}` that gives {record.get('permissions') or 'this'}"
    return Decision(f"SELinux on FS-VM {server}", rule, explanation)


def _denied_all_the_same(explanation: Explanation, text: str, change: str) -> Explanation:
    if not explanation.allowed:
        return explanation
    grounds = [replace(each, decides=False) for each in explanation.grounds]
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


def _root(declaration: Declaration, community: str, share: str, server: str) -> Decision:
    text = f"UID 0 of an APP-VM of {community} may mount the community's shares and do nothing else"
    only = ground(declaration, text, ("communities", community))
    question = f"UID 0 of {community} uses share {share}"
    explanation = Explanation(question, False, (only,), "log in as a user of the community")
    return Decision(
        f"SELinux on FS-VM {server}", f"`{community}_mount_t` has `getattr` on shares' roots only", explanation
    )


def _unknown_subject(declaration: Declaration, record: Record, server: str) -> Decision:
    infrastructure = declaration.infrastructure
    uid, address = record.get("uid"), str(record.get("address", "?"))
    card = Directory(infrastructure).card_at(address)
    if card is None or card.community is None:
        only = ground(declaration, f"no APP-VM has the address {address}", ("communities",))
    else:
        user = _member(infrastructure, card.community, uid)
        path: ModelPath = ("communities", card.community)
        if uid == 0:
            text = f"UID 0 of {card.vm} may mount only while somebody is logged in there"
        elif user is None:
            text = f"UID {uid} is no user of {card.community}, whose APP-VM {card.vm} asked"
        else:
            path = ("users", user, "communities", card.community)
            text = f"UID {uid} is {user} there, who was not logged in on {card.vm}"
        only = ground(declaration, text, path)
    explanation = Explanation(f"UID {uid} at {address} uses {server}", False, (only,), "log in: `vinci login`")
    return Decision(
        f"FS-VM {server}, table of subjects", "only users who are logged in now have a subject", explanation
    )


def _member(infrastructure: Infrastructure, community: str, uid: object) -> str | None:
    """The user whom a UID means on APP-VMs of a community."""
    for name, user in infrastructure.users.items():
        membership = user.communities.get(community)
        if membership is not None and (membership.local_uid or user.uid) == uid:
            return name
    return None


# -- logins ----------------------------------------------------------------------------------------------------------


def _login(declaration: Declaration, record: Record) -> Decision:
    user, reason = str(record.get("user", "?")), str(record.get("reason", ""))
    declared = declaration.infrastructure.users.get(user)
    change = "set a password: `vinci passwd`"
    if declared is None:
        grounds = [ground(declaration, f"no user {user} is declared", ("users",))]
        change = "declare the user"
    else:
        member = " and ".join(declared.communities)
        wrong_community = "is not in community" in reason
        path: ModelPath = ("users", user, "communities" if wrong_community else "password_hash")
        text = (
            f"{user} is in {member}"
            if wrong_community
            else f"the password is that of this line, or set later: {reason}"
        )
        grounds = [ground(declaration, text, path)]
        if wrong_community:
            change = "put the user into the community"
    explanation = Explanation(f"login of {user}", False, tuple(grounds), change)
    return Decision(_AUTHENTICATION, reason, explanation)


def _terms(rule: LoginRule) -> str:
    where = (f" for {rule.user}" if rule.user else "") + (f" at {rule.node}" if rule.node else "")
    return f"{rule.community}{where}" + (f" from {rule.between}" if rule.between else "")


def _login_rule(
    declaration: Declaration, rules: tuple[LoginRule, ...], number: int, user: str, community: str
) -> Ground:
    """The rule of that number as it is now, and whether it can be the one that decided."""
    if not 0 < number <= len(rules):
        return Ground(f"the file has no rule {number} of `login` any more", None, True)
    rule, path = rules[number - 1], ("login", number - 1)
    text = f"rule {number} now: {_terms(rule)}"
    if rule.community == community and rule.user in (None, user):
        return ground(declaration, text, path)
    return ground(declaration, f"{text}; it is another rule than then, for it does not lead {user} there", path, False)


def _entered(declaration: Declaration, record: Record) -> Decision:
    """Why somebody was let in: the membership, and the rule that decided."""
    user, community = str(record.get("user", "?")), str(record.get("community", "?"))
    rules, number = declaration.infrastructure.login, record.get("login_rule")
    declared = declaration.infrastructure.users.get(user)
    member = declared is not None and community in declared.communities
    path: ModelPath = ("users", user, "communities", community) if member else ("users",)
    text = f"{user} is in {community}" if member else f"{user} is not in {community} any more"
    grounds = [ground(declaration, text, path)]
    rule = "the right password; one community, or the one that was asked for"
    if isinstance(number, int):
        rule = f"the right password, and rule {number} of `login`"
        grounds.append(_login_rule(declaration, rules, number, user, community))
    question = f"{user} enters {community} on {record.get('vm', '?')}"
    change = f"take {user} out of {community}"
    return Decision(_AUTHENTICATION, rule, Explanation(question, True, tuple(grounds), change), allowed=True)
