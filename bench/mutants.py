# SPDX-License-Identifier: GPL-2.0-or-later
"""Compilers broken on purpose: how soon does the comparison find each of them?

Run: .venv/bin/python bench/random_infrastructures.py --mutants --count 500
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from random_infrastructures import disagreements, number

import vinci.plan.compile as plan
import vinci.plan.firewall_rules as firewall
import vinci.plan.second_opinion as opinion
import vinci.plan.walk as walk
import vinci.policy.cil as cil
import vinci.policy.graph as graph
from vinci.model.infrastructure import Direction, Operation
from vinci.plan.bridge_filter import TABLE
from vinci.plan.bridge_rules import port_group
from vinci.plan.nft import ACCEPT, concat, match
from vinci.policy.graph import HopKind


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault: `name` says which, `owner.attribute` is replaced by `broken` of what stood there."""

    name: str
    owner: Any
    attribute: str
    broken: Callable[[Any], Any]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The fault is there inside the block."""
        with patch.object(self.owner, self.attribute, self.broken(getattr(self.owner, self.attribute))):
            yield


def _text(name: str, pattern: str, wrong: str) -> Mutant:
    """A policy in which a statement is another one, wherever it stands."""
    return Mutant(
        f"policy: {name}",
        plan,
        "file_policy",
        lambda right: lambda **given: re.sub(pattern, wrong, right(**given), flags=re.MULTILINE),
    )


def _rights(name: str, operation: Operation, **wrong: str) -> Mutant:
    """An operation that is granted by other permissions."""
    return Mutant(f"policy: {name}", cil, "_RIGHTS", lambda right: {**right, operation: {**right[operation], **wrong}})


def _flow(name: str, **wrong: Any) -> Mutant:
    """Flows that get to the FW-VMs with another value; a function makes it of the flow."""

    def broken(right: Callable[[Any], list[Any]]) -> Callable[[Any], list[Any]]:
        def made(rule: Any) -> Any:
            return replace(rule, **{key: value(rule) if callable(value) else value for key, value in wrong.items()})

        return lambda context: [made(rule) for rule in right(context)]

    return Mutant(f"rules: {name}", plan, "_flow_rules", broken)


def _firewall(name: str, wrong: Callable[[Any], Any]) -> Mutant:
    """FW-VMs that are given another plan."""
    return Mutant(f"rules: {name}", firewall, "_crossing", lambda right: lambda given: right(wrong(given)))


def _ports(name: str, wrong: Callable[[Any, Any], Any]) -> Mutant:
    """Bridges whose ports are others; `wrong` makes one of a bridge and a port of it."""

    def broken(right: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda bridges: right(
            [replace(bridge, ports=tuple(wrong(bridge, port) for port in bridge.ports)) for bridge in bridges]
        )

    return Mutant(f"rules: {name}", walk, "bridge_ruleset", broken)


def _frames(name: str, chain: str, wrong: Callable[[list[Any]], list[Any]], reason: str) -> Mutant:
    """Bridges whose rules of a chain in which the word `reason` stands are others."""
    return Mutant(
        f"frames: {name}",
        walk,
        "bridge_ruleset",
        lambda right: lambda bridges: {"nftables": _each_rule(right(bridges)["nftables"], chain, wrong, reason)},
    )


def _may(name: str, wrong: Callable[[Any, Any], Iterable[int]]) -> Mutant:
    """Ports that may exchange other ethertypes; `wrong` makes them of a bridge and a port of it."""

    def broken(right: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def made(bridges: Any) -> Any:
            pairs = ((port, number) for each in bridges for port in each.ports for number in wrong(each, port))
            elements = [concat(port_group(port), number) for port, number in pairs]
            kept = right([replace(each, ethertypes=()) for each in bridges])["nftables"]
            return {"nftables": [*kept, *TABLE.add_elements("ethertypes", elements)]}

        return made

    return Mutant(f"frames: {name}", walk, "bridge_ruleset", broken)


def _lacking(word: str) -> Callable[[list[Any]], list[Any]]:
    """Rules that lost every match in which the word stands."""
    return lambda expr: [each for each in expr if word not in str(each)]


def _without(statement: str) -> Callable[[Any], Any]:
    """Rules of an FW-VM that lost every match on a field."""

    def broken(right: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def stripped(given: Any) -> Any:
            commands = right(given)
            for command in commands:
                rule = command.get("add", {}).get("rule")
                if rule is not None and ACCEPT in rule["expr"]:
                    rule["expr"] = [each for each in rule["expr"] if statement not in str(each.get("match", ""))]
            return commands

        return stripped

    return broken


def _own(name: str, chain: str, wrong: Callable[[list[Any]], list[Any]], reason: str = "") -> Mutant:
    """FW-VMs whose own chain of a hook has other rules: `wrong` makes them of the statements of each."""

    def broken(right: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda given: _each_rule(right(given), chain, wrong, reason)

    return Mutant(f"rules: {name}", firewall, "_own_traffic", broken)


def _gateway(name: str, hook: str, *words: str) -> Mutant:
    """Rules around gateways that lost every match in which one of the words stands."""

    def stripped(expr: list[Any]) -> list[Any]:
        return [each for each in expr if not any(word in str(each) for word in words)]

    def broken(right: Callable[..., Any]) -> Callable[..., Any]:
        def made(*given: Any) -> Any:
            rules = right(*given)
            return replace(rules, **{hook: _each_rule(getattr(rules, hook), None, stripped)})

        return made

    return Mutant(f"gateways: {name}", firewall, "gateway_rules", broken)


def _table(name: str, pattern: str, wrong: str | Callable[[re.Match[str]], str]) -> Mutant:
    """Tables of gateways in which a word is another one."""
    return Mutant(
        f"gateways: {name}", opinion, "gateway_table", lambda right: lambda given: re.sub(pattern, wrong, right(given))
    )


def _each_rule(
    commands: list[Any], chain: str | None, wrong: Callable[[list[Any]], list[Any]], reason: str = ""
) -> list[Any]:
    made = copy.deepcopy(commands)
    for command in made:
        rule = command.get("add", {}).get("rule")
        if rule is not None and chain in (None, rule["chain"]) and reason in str(rule["expr"]):
            rule["expr"] = wrong(rule["expr"])
    return made


def _without_icmp(expr: list[Any]) -> list[Any]:
    return [each for each in expr if "icmp" not in str(each)]


def _graph(name: str, forgotten: Callable[[Any], bool]) -> Mutant:
    """A graph of flows that lacks hops."""
    return Mutant(
        f"graph: {name}",
        graph,
        "_hops",
        lambda right: lambda *given: (hop for hop in right(*given) if not forgotten(hop)),
    )


_SSH = match({"payload": {"protocol": "tcp", "field": "dport"}}, 22)
_WRITING = "getattr setattr open write append create link rename"

MUTANTS = (
    _text("reading up is not forbidden", r"^\(mlsconstrain \(file \(read .*", ""),
    _text("directories may be read up", r"^\(mlsconstrain \(dir \(read .*", ""),
    _text("writing down is not forbidden", r"^\(mlsconstrain \(file \(write\).*", ""),
    _text("writing up is not forbidden", r"^(\(mlsconstrain \(file \(write\)\) \(or )\(eq l1 l2\)", r"\1(domby l1 l2)"),
    _text("appending down is not forbidden", r"^\(mlsconstrain \(file \(create append.*", ""),
    _text("appending down instead of up", r"^(\(mlsconstrain \(file \(create append\)\) \(or )\(domby", r"\1(dom"),
    _text("levels are not compared", r"^(\(mlsconstrain \(file \(read .*?\(or )\(dom l1 l2\)", r"\1(not (eq l1 l2))"),
    _text("trusted with one share is with all", r"\(and (\(eq t1 [\w-]+\)) \(eq t2 [\w-]+\)\)", r"\1"),
    _text("nobody is trusted", r"\(and \(eq t1 [\w-]+\) \(eq t2 [\w-]+\)\)", "(eq l1 l2)"),
    _text("rights of one user are everybody's", r"^\(allow ([a-z][a-z0-9-]*)_\w+_own_t", r"(allow \1_subjects"),
    _text("rights of one user are missing", r"^\(allow [a-z][a-z0-9-]*_\w+_own_t .*", ""),
    _text("root may read what it mounts", r"^(\(allow [\w-]+_mount_t [\w-]+_share_t \(dir \(getattr)", r"\1 read"),
    _text("root of all may mount", r"^\(allow ([\w-]+)_mount_t", "(allow vinci_all_mounts"),
    _text("everybody sees names", r"\Z", "(allow vinci_all_subjects vinci_all_shares (dir (getattr)))\n"),
    _text("the kernel's type may look into shares", r"\Z", "(allow vinci_kernel_t vinci_all_shares (dir (search)))\n"),
    _text("the labelling type may read", r"^(\(allow vinci_manage_t vinci_all_shares \(file \()", r"\1read "),
    _text("the comparing type may write", r"^(\(allow vinci_compare_t vinci_all_shares \(file \()", r"\1write "),
    _text(
        "a subject may become another",
        r"\Z",
        "(allow vinci_all_subjects vinci_all_hosts (process (dyntransition)))\n",
    ),
    _text("everybody may act everywhere", r"^\(userrole (U?user\w+) .*", r"(userrole \1 vinci_system_r)"),
    _text("ranges are as wide as can be", r"^\(userrange (U?user\w+) .*", r"(userrange \1 (low low))"),
    _text("types are permissive", r"\Z", "(typepermissive vinci_decode_t)\n"),
    _rights("who reads may write", Operation.READ, file="getattr open read write"),
    _rights("who reads may append", Operation.READ, file="getattr open read append"),
    _rights("who reads may execute", Operation.READ, file="getattr open read execute"),
    _rights("who executes cannot read", Operation.EXECUTE, file="getattr open execute"),
    _rights("who appends may write", Operation.APPEND, file="getattr open append create write"),
    _rights("who appends may list", Operation.APPEND, dir="getattr search write add_name read"),
    _rights("who appends may remove", Operation.APPEND, dir="getattr search write add_name remove_name"),
    _rights("who writes may read", Operation.WRITE, file=f"{_WRITING} unlink read"),
    _rights("who writes cannot remove", Operation.WRITE, file=_WRITING),
    _rights("who writes cannot make directories", Operation.WRITE, dir="getattr search setattr write remove_name"),
    Mutant("policy: everybody has a type of one's own", plan, "own_types",
           lambda _: lambda shares: frozenset({("user0", "alpha"), ("user1", "b")})),
    Mutant("plan: own rights of other servers", plan, "own_types",
           lambda right: lambda shares: frozenset()),
    Mutant("plan: shares have the lowest label", plan, "share_context",
           lambda right: lambda name, label: right(name, replace(label, level=0, categories=frozenset()))),
    Mutant("plan: subjects have the lowest label", plan, "subject_context",
           lambda right: lambda user, community, label, own_type: right(
               user, community, replace(label, level=0, categories=frozenset()), own_type)),
    _flow("flows go to another port", port=4711),
    _flow("flows go to the next port", port=lambda rule: rule.port + 1),
    _flow("diodes have a way back", one_way=False),
    _flow("only the first VM of the source", source_addresses=lambda rule: rule.source_addresses[:1]),
    _flow("only the first VM of the target", to_addresses=lambda rule: rule.to_addresses[:1]),
    _flow("the FW-VM's address instead of a VM's", to_addresses=lambda rule: (rule.to_network[1],)),
    _firewall("nothing goes out", lambda given: replace(given, outbound=())),
    _firewall("nothing comes in", lambda given: replace(given, inbound=())),
    _firewall("each flow also the other way", lambda given: replace(
        given, inbound=(*given.inbound, *map(_turned, given.outbound)),
        outbound=(*given.outbound, *map(_turned, given.inbound)))),
    Mutant("rules: ports are not looked at", firewall, "_crossing", _without("'field': 'dport'")),
    Mutant("rules: sources are not looked at", firewall, "_crossing", _without("'field': 'saddr'")),
    Mutant("rules: targets are not looked at", firewall, "_crossing", _without("'field': 'daddr'")),
    Mutant("rules: answers are not looked at", firewall, "_crossing", _without("'direction'")),
    Mutant("rules: states are not looked at", firewall, "_crossing", _without("'state'")),
    Mutant("rules: nothing is forbidden", firewall, "_crossing", lambda right: lambda given: _accepting(right(given))),
    Mutant("rules: the sides are not looked at", firewall, "_crossing",
           lambda right: _without("ifname")(lambda given: _without_reason("spoofed", right(given)))),
    Mutant("rules: a running connection is taken up", firewall, "_OPENING",
           lambda _: match({"ct": {"key": "state"}}, "new")),
    _own("FW-VMs take everything", "input", lambda _expr: [ACCEPT], "deny_to_firewall"),
    _own("FW-VMs offer ssh", "input", lambda _expr: [_SSH, ACCEPT], "deny_to_firewall"),
    _own("FW-VMs take what is related", "input", lambda _expr: [match({"ct": {"key": "state"}}, "related"), ACCEPT],
         "deny_to_firewall"),
    _own("FW-VMs say everything", "output", lambda _expr: [ACCEPT], "deny_from_firewall"),
    _own("FW-VMs say all that is related", "output", _without_icmp, "icmp"),
    _own("FW-VMs say no error", "output", lambda _expr: [{"drop": None}], "icmp"),
    _own("FW-VMs say errors about anything", "output",
         lambda expr: [each for each in expr if "related" not in str(each)], "icmp"),
    Mutant("rules: all that is related crosses", firewall, "_crossing",
           lambda right: lambda given: _each_rule(right(given), "forward", _without_icmp, "icmp")),
    Mutant("rules: no error crosses", firewall, "_crossing",
           lambda right: lambda given: _each_rule(right(given), "forward", lambda _expr: [{"drop": None}], "icmp")),
    _gateway("every user is a gateway", "output", "skuid"),
    _gateway("gateways connect to any port", "output", "dport"),
    _gateway("gateways connect to anybody", "output", "daddr"),
    _gateway("gateways connect on both sides", "output", "oifname"),
    _gateway("clients come in on both sides", "redirect", "iifname"),
    _gateway("everybody is a client", "redirect", "saddr"),
    _gateway("everything is a target", "redirect", "daddr"),
    _gateway("every port is led to the gateway", "redirect", "dport"),
    _gateway("who was not led there gets in", "input", "'dir': 'original'"),
    _gateway("answers come from any port", "input", "sport"),
    _gateway("answers that are none get in", "input", "reply"),
    _gateway("answers need no connection", "input", "established", "reply"),
    Mutant("gateways: nobody is led to one", firewall, "gateway_rules",
           lambda right: lambda *given: replace(right(*given), redirect=[])),
    Mutant("gateways: no answer gets in", firewall, "gateway_rules",
           lambda right: lambda *given: replace(right(*given), input=[])),
    _table("none", r"(?s).+", ""),
    _table("another port", r" port=\d+", " port=4711"),
    _table("more clients", r" sources=", " sources=10.99.0.1,"),
    _table("more targets", r" targets=", " targets=10.99.0.1,"),
    _table("only the first client", r" sources=([\d.]+),[\d.,]+", r" sources=\1"),
    _table("more functions", r" functions=", " functions=99,"),
    _table("every unit", r" units=\S+", " units=0-255"),
    _table("one register more", r"(registers=\S*-)(\d+)", lambda found: f"{found[1]}{int(found[2]) + 1}"),
    _table("registers from 0 on", r"registers=\d+-", "registers=0-"),
    _table("more methods", r" methods=", " methods=TRACE,"),
    _table("every path", r" paths=\S+", " paths=/*"),
    _table("a larger body", r" max_body_bytes=", " max_body_bytes=1"),
    _table("a higher rate", r" rate=", " rate=1"),
    _graph("requests are no hops", lambda hop: hop.kind is HopKind.REQUEST),
    _graph("answers are no hops", lambda hop: hop.kind is HopKind.ANSWER),
    _graph("reading is no hop", lambda hop: hop.kind is HopKind.READ),
    _graph("executing is no hop", lambda hop: hop.kind is HopKind.EXECUTE),
    _graph("writing is no hop", lambda hop: hop.kind is HopKind.WRITE),
    _graph("appending is no hop", lambda hop: hop.kind is HopKind.APPEND),
    _graph("grants to one user are no hops", lambda hop: ":" in hop.via),
    _graph("home directories are no hops", lambda hop: "homes-" in f"{hop.source} {hop.target}"),
    Mutant("graph: diodes have answers", graph, "_hops", lambda right: lambda infrastructure, order: right(
        infrastructure.model_copy(update={"flows": tuple(
            flow.model_copy(update={"direction": Direction.BOTH}) for flow in infrastructure.flows)}), order)),
    _ports("all VMs of a community are peers", lambda _bridge, port: replace(port, mesh=not port.routed_networks)),
    _ports("no VMs are peers", lambda _bridge, port: replace(port, mesh=False)),
    _ports("everybody on a bridge is a peer", lambda bridge, port: replace(
        port, peers=tuple(each.tap for each in bridge.ports))),
    _ports("nobody is a peer", lambda _bridge, port: replace(port, peers=())),
    _ports("the FW-VM stands for nobody", lambda _bridge, port: replace(port, routed_networks=())),
    _ports("the first peer only", lambda _bridge, port: replace(port, peers=port.peers[:1])),
    _may("none is permitted", lambda _bridge, _port: ()),
    _may("one more", lambda bridge, port: (*bridge.ethertypes, 0x88BB) if port.mesh else ()),
    _may("IPv6, by its number", lambda _bridge, _port: (0x86DD,)),
    _may("the first only", lambda bridge, port: bridge.ethertypes[:1] if port.mesh else ()),
    _may("APP-VMs need not be peers", lambda bridge, port: () if port.routed_networks else bridge.ethertypes),
    _may("FW-VMs and FS-VMs too", lambda bridge, _port: bridge.ethertypes),
    _may("those of any community", lambda _bridge, port: (0x88B8, 0x88BA) if port.mesh else ()),
    _frames("the target may have others", "forward", _lacking("oifgroup"), "declared"),
    _frames("the source may have others", "forward", _lacking("{'key': 'iifgroup'}}, {'payload': {'protocol': "
            "'ether', 'field': 'type'}}"), "declared"),
    _frames("every ethertype", "forward", _lacking("@ethertypes"), "declared"),
    _frames("from any MAC", "forward", _lacking("saddr"), "declared"),
    _frames("to any MAC", "declared", _lacking("daddr"), "@macs"),
    _frames("to no group", "declared", lambda _expr: [{"drop": None}], "01:00:00:00:00:00"),
    _frames("to nobody alone", "declared", lambda _expr: [{"counter": None}], "@macs"),
    _frames("to the host", "input", lambda expr: [*expr[:-1], ACCEPT], "@ethertypes"),
)  # fmt: skip


def _turned(rule: Any) -> Any:
    return replace(
        rule,
        source=rule.to,
        to=rule.source,
        source_network=rule.to_network,
        to_network=rule.source_network,
        source_addresses=rule.to_addresses,
        to_addresses=rule.source_addresses,
    )


def _accepting(commands: Any) -> Any:
    """Only the chain itself, which accepts what no rule of it drops."""
    chain = dict(commands[0]["add"]["chain"], policy="accept")
    return [{"add": {"chain": chain}}]


def _without_reason(reason: str, commands: Any) -> Any:
    """The rules without those that drop for a reason."""
    return [command for command in commands if reason not in str(command)]


def score(seed: int, most: int) -> int:
    """Print for each mutant how many infrastructures it took to find it; exit status 1 when one is not found."""
    found = 0
    for mutant in MUTANTS:
        with mutant.at_work():
            at = next((index for index in range(most) if _differs(seed, index)), None)
        found += at is not None
        print(f"{'at ' + str(at + 1) if at is not None else 'NOT FOUND':>10}  {mutant.name}", flush=True)
    print(f"mutation score: {found} of {len(MUTANTS)} within {most} infrastructures each")
    return 0 if found == len(MUTANTS) else 1


def _differs(seed: int, index: int) -> bool:
    try:
        return next(disagreements(number(seed, index)), None) is not None
    except Exception:  # a policy that does not compile is found, too
        return True
