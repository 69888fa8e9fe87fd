# SPDX-License-Identifier: GPL-2.0-or-later
"""A tiny judge of nftables' JSON: applies transactions to tables, and walks one packet through them.

Written from libnftables-json(5), not from the generators, and only as far as our rules go: anything that it does
not know is an error, so that a new statement in the rules cannot pass untested.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

Packet = Mapping[str, Any]
"""Fields by name: `meta.iifgroup`, `ether.saddr`, `ip.daddr`, `ct.state`… A field that a packet has not is absent."""

IMPLIED = {
    "ip": ("ether.type", "ip"),
    "arp": ("ether.type", "arp"),
    "icmp": ("meta.l4proto", "icmp"),
    "icmpv6": ("meta.l4proto", "ipv6-icmp"),
    "udp": ("meta.l4proto", "udp"),
    "tcp": ("meta.l4proto", "tcp"),
}


class AbsentError(Exception):
    """The packet has no such field: the rule does not apply."""


@dataclass
class Chain:
    hook: str | None = None
    policy: str = "accept"
    rules: list[list[dict[str, Any]]] = field(default_factory=list)


@dataclass
class Verdict:
    accepted: bool
    mark: int = 0
    log: str | None = None
    tracked: bool = True


class Firewall:
    """The tables of one namespace."""

    def __init__(self, *rulesets: dict[str, Any]) -> None:
        self.chains: dict[str, Chain] = {}
        self.sets: dict[str, dict[Any, Any]] = {}
        self.kinds: dict[str, Any] = {}
        for ruleset in rulesets:
            self.apply(ruleset)

    def apply(self, ruleset: dict[str, Any]) -> None:
        """One transaction: all or nothing."""
        before = copy.deepcopy(self.__dict__)
        try:
            for command in ruleset["nftables"]:
                ((action, what),) = command.items()
                ((kind, body),) = what.items()
                getattr(self, f"_{action}_{kind}")(body)
            self._check_targets()
        except BaseException:
            self.__dict__.update(before)
            raise

    def state(self) -> Any:
        """Everything in force, comparable whatever the order in which sets were filled."""
        chains = {name: (chain.hook, chain.policy, chain.rules) for name, chain in self.chains.items()}
        return chains, self.sets, self.kinds

    def _add_table(self, _body: dict[str, Any]) -> None:
        pass

    def _delete_table(self, _body: dict[str, Any]) -> None:
        self.chains, self.sets, self.kinds = {}, {}, {}

    def _add_chain(self, body: dict[str, Any]) -> None:
        self.chains.setdefault(body["name"], Chain(body.get("hook"), body.get("policy", "accept")))

    def _flush_chain(self, body: dict[str, Any]) -> None:
        self.chains[body["name"]].rules.clear()

    def _delete_chain(self, body: dict[str, Any]) -> None:
        assert not self.chains[body["name"]].rules, "a chain is emptied before it is deleted"
        del self.chains[body["name"]]

    def _add_rule(self, body: dict[str, Any]) -> None:
        self.chains[body["chain"]].rules.append(body["expr"])

    def _add_set(self, body: dict[str, Any]) -> None:
        self.sets.setdefault(body["name"], {})
        self.kinds[body["name"]] = (body["type"], tuple(body.get("flags", ())))

    _add_map = _add_set

    def _add_element(self, body: dict[str, Any]) -> None:
        for element in body["elem"]:
            key, value = element if isinstance(element, list) else (element, None)
            held = self.sets[body["name"]].setdefault(_key(key), value)
            assert held == value, "an element of a map cannot be replaced"

    def _delete_element(self, body: dict[str, Any]) -> None:
        for element in body["elem"]:
            del self.sets[body["name"]][_key(element[0] if isinstance(element, list) else element)]

    def _check_targets(self) -> None:
        for members in self.sets.values():
            for verdict in members.values():
                assert verdict is None or verdict["goto"]["target"] in self.chains

    # -- judging -----------------------------------------------------------------------------------------------

    def judge(self, hook: str, packet: Packet) -> Verdict:
        """What happens to a packet at a hook."""
        judged = Verdict(accepted=False)
        seen = dict(packet)
        base = [chain for chain in self.chains.values() if chain.hook == hook]
        outcome = None
        for chain in base:
            outcome = self._run(chain, seen, judged)
            judged.accepted = outcome == "accept" or (outcome is None and chain.policy == "accept")
            if not judged.accepted:
                break
        judged.mark = seen.get("meta.mark", 0)
        return judged

    def _run(self, chain: Chain, packet: dict[str, Any], judged: Verdict) -> str | None:
        for rule in chain.rules:
            try:
                outcome = self._rule(rule, packet, judged)
            except AbsentError:
                continue
            if outcome is not None:
                return None if outcome == "return" else outcome
        return None

    def _rule(self, statements: list[dict[str, Any]], packet: dict[str, Any], judged: Verdict) -> str | None:
        for statement in statements:
            ((kind, body),) = statement.items()
            if kind == "match":
                if not self._match(body, packet):
                    return None
            elif kind in ("accept", "drop"):
                return kind
            elif kind in ("goto", "jump", "vmap"):
                verdict = self._verdict(kind, body, packet)
                if verdict is None:
                    continue
                target, returns = verdict
                outcome = self._run(self.chains[target], packet, judged)
                if outcome is not None or not returns:
                    return outcome or "return"
            elif kind == "mangle":
                packet[_name(body["key"])] = body["value"]
            elif kind == "log":
                judged.log = body["prefix"]
            elif kind == "notrack":
                judged.tracked = False
            elif kind == "set" or (kind == "limit" and body.get("inv")):
                return None  # a rate that this one packet does not exceed
            else:
                assert kind in ("counter", "limit"), f"the judge does not know {kind}"
        return None

    def _verdict(self, kind: str, body: dict[str, Any], packet: Packet) -> tuple[str, bool] | None:
        if kind != "vmap":
            return body["target"], kind == "jump"
        found = self.sets[body["data"].removeprefix("@")].get(self._value(body["key"], packet))
        return (found["goto"]["target"], False) if found else None

    def _match(self, body: dict[str, Any], packet: Packet) -> bool:
        left, right = self._value(body["left"], packet), body["right"]
        if isinstance(right, str) and right.startswith("@"):
            return self._contains(right[1:], left) == (body["op"] == "==")
        candidates = right["set"] if isinstance(right, dict) and "set" in right else [right]
        assert body["op"] in ("==", "!=")
        assert candidates, "nftables refuses a comparison with nothing"
        return any(_equal(left, each) for each in candidates) == (body["op"] == "==")

    def _contains(self, name: str, value: Any) -> bool:
        members = self.sets[name]
        if value in members:
            return True
        if "interval" not in self.kinds[name][1]:
            return False
        return any(all(map(_equal, value, member)) for member in members)

    def _value(self, expression: Any, packet: Packet) -> Any:
        if "concat" in expression:
            return tuple(self._value(part, packet) for part in expression["concat"])
        if "&" in expression:
            value, mask = expression["&"]
            return _masked(self._value(value, packet), mask)
        name = _name(expression)
        needed = IMPLIED.get(name.partition(".")[0])
        if needed and packet.get(needed[0]) != needed[1]:
            raise AbsentError
        if name not in packet:
            raise AbsentError
        return packet[name]


def _name(expression: Any) -> str:
    ((kind, body),) = expression.items()
    if kind == "payload":
        return f"{body['protocol']}.{body['field']}"
    assert kind in ("meta", "ct")
    return f"{kind}.{body['key']}"


def _key(element: Any) -> Any:
    if isinstance(element, dict) and "concat" in element:
        return tuple(_key(part) for part in element["concat"])
    if isinstance(element, dict):
        return IPv4Network(f"{element['prefix']['addr']}/{element['prefix']['len']}")
    return element


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict) and "range" in wanted:
        low, high = wanted["range"]
        return bool(low <= value <= high)
    if isinstance(wanted, dict):
        wanted = _key(wanted)
    if isinstance(wanted, IPv4Network):
        return IPv4Address(value) in wanted
    return bool(value == wanted)


def _masked(value: Any, mask: Any) -> Any:
    if isinstance(mask, list):  # flags of TCP; a single one is compared by its name
        flags = sorted(set(value) & set(mask))
        return flags[0] if len(flags) == 1 else tuple(flags)
    pairs = zip(value.split(":"), mask.split(":"), strict=True)
    return ":".join(f"{int(a, 16) & int(b, 16):02x}" for a, b in pairs)
