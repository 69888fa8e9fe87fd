# SPDX-License-Identifier: GPL-2.0-or-later
"""What an nftables rule set does with a packet, read back from the JSON that the kernel is given.

A second opinion: nothing here knows how the rules were made, only what libnftables-json(5) and nft(8) say that they
mean. A statement that is not known is an error, never a guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from vinci.policy.readback_files import ReadbackError

Value = str | int | frozenset[str]
Packet = Mapping[str, Value]
"""Fields by name (`ip saddr`, `meta iifgroup`, `ct state`); one that the packet does not have is absent."""

MAX_DEPTH = 16
"""The kernel's own limit of nested chains (NFT_JUMP_STACK_SIZE)."""
_NO_EFFECT = frozenset({"counter", "log"})
_ABSENT: Any = object()


@dataclass
class _Chain:
    hook: str | None
    priority: int
    policy: str
    rules: list[list[dict[str, Any]]] = field(default_factory=list)


@dataclass
class _Set:
    """Members by key, with the verdict for a map; `wide` holds those that are intervals."""

    exact: dict[Any, Any] = field(default_factory=dict)
    wide: dict[Any, list[tuple[tuple[Any, ...], Any]]] = field(default_factory=dict)
    """By their first part, or None where that is an interval itself."""

    def add(self, parts: tuple[Any, ...], verdict: Any) -> None:
        if any(isinstance(part, dict) for part in parts):
            first = None if isinstance(parts[0], dict) else parts[0]
            self.wide.setdefault(first, []).append((parts, verdict))
        else:
            self.exact[parts] = verdict

    def find(self, key: tuple[Value, ...]) -> Any:
        if key in self.exact:
            return self.exact[key]
        if not self.wide:
            return _ABSENT
        for parts, verdict in (*self.wide.get(key[0], ()), *self.wide.get(None, ())):
            if len(parts) == len(key) and all(_is(value, part) for value, part in zip(key, parts, strict=True)):
                return verdict
        return _ABSENT


class RuleSet:
    """The chains and sets that a transaction leaves behind."""

    def __init__(self, text: str) -> None:
        """Read a transaction that starts from nothing. Raises ReadbackError."""
        self._chains: dict[str, _Chain] = {}
        self._sets: dict[str, _Set] = {}
        try:
            for command in json.loads(text)["nftables"]:
                ((verb, what),) = command.items()
                ((kind, body),) = what.items()
                self._take(verb, kind, body)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ReadbackError(f"a rule set that cannot be read: {error!r}") from None

    def _take(self, verb: str, kind: str, body: dict[str, Any]) -> None:
        match verb, kind:
            case "add", "table":
                pass
            case "delete", "table":
                self._chains, self._sets = {}, {}
            case "add", "chain":
                chain = _Chain(body.get("hook"), body.get("prio", 0), body.get("policy", "accept"))
                self._chains.setdefault(body["name"], chain)
            case "add", "rule":
                self._chains[body["chain"]].rules.append(body["expr"])
            case "add", "set" | "map":
                self._sets.setdefault(body["name"], _Set())
            case "add", "element":
                for element in body["elem"]:
                    key, verdict = element if isinstance(element, list) else (element, None)
                    self._add(self._sets[body["name"]], key, verdict)
            case _:
                raise ReadbackError(f"command {verb} {kind} is not known")

    @staticmethod
    def _add(members: _Set, key: Any, verdict: Any) -> None:
        members.add(tuple(key["concat"]) if isinstance(key, dict) and "concat" in key else (key,), verdict)

    def ports(self) -> frozenset[int]:
        """Every port that a rule names; all others are alike to it."""
        found = set()
        for chain in self._chains.values():
            for statement in (statement for rule in chain.rules for statement in rule):
                body = statement.get("match")
                if body is not None and body["left"].get("payload", {}).get("field") in ("sport", "dport"):
                    found |= _numbers(body["right"])
        return frozenset(found)

    def passes(self, hook: str, packet: Packet) -> bool:
        """Whether a packet leaves the chains of a hook, `prerouting` before `forward`."""
        seen: dict[str, Value] = dict(packet)
        for name in ("prerouting", hook):
            chains = sorted(
                (chain for chain in self._chains.values() if chain.hook == name), key=lambda chain: chain.priority
            )
            for chain in chains:
                if (self._run(chain, seen, 0) or chain.policy) != "accept":
                    return False
        return any(chain.hook == hook for chain in self._chains.values())

    def _run(self, chain: _Chain, packet: dict[str, Value], depth: int) -> str | None:
        """`accept`, `drop`, or None at the end of the chain."""
        if depth > MAX_DEPTH:
            raise ReadbackError("chains call each other deeper than the kernel allows")
        for rule in chain.rules:
            verdict = self._rule(rule, packet, depth)
            if verdict == "return":
                return None
            if verdict is not None:
                return verdict
        return None

    def _rule(self, rule: list[dict[str, Any]], packet: dict[str, Value], depth: int) -> str | None:
        for statement in rule:
            ((kind, body),) = statement.items()
            if kind == "match":
                if not self._matches(body, packet):
                    return None
            elif kind in ("accept", "drop", "return"):
                return str(kind)
            elif kind in ("jump", "goto"):
                verdict = self._run(self._chains[body["target"]], packet, depth + 1)
                if verdict is not None or kind == "goto":
                    return verdict or "return"
            elif kind == "vmap":
                verdict = self._by_map(body, packet, depth)
                if verdict is not None:
                    return verdict
            elif kind == "notrack":
                packet["ct state"] = "untracked"
                packet.pop("ct direction", None)
            elif kind == "mangle":
                packet[_name(body["key"])] = body["value"]
            elif kind in ("limit", "set"):
                # Rates bound what is recorded. They could also bound what passes, and then nothing is certain.
                if "accept" in {word for other in rule for word in other}:
                    raise ReadbackError("a rule accepts up to a rate: what passes depends on time")
                if kind == "set" or body.get("inv"):
                    return None
            elif kind not in _NO_EFFECT:
                raise ReadbackError(f"statement {kind} is not known")
        return None

    def _by_map(self, body: dict[str, Any], packet: dict[str, Value], depth: int) -> str | None:
        key = self._read(body["key"], packet)
        found = _ABSENT if key is None else self._sets[str(body["data"])[1:]].find(key)
        if found is _ABSENT:
            return None
        ((kind, target),) = found.items()
        if kind not in ("goto", "jump"):
            return str(kind)
        verdict = self._run(self._chains[target["target"]], packet, depth + 1)
        return verdict if verdict is not None or kind == "jump" else "return"

    def _matches(self, body: dict[str, Any], packet: Packet) -> bool:
        operator, right = body["op"], body["right"]
        if operator not in ("==", "!="):
            raise ReadbackError(f"comparison {operator} is not known")
        left = self._read(body["left"], packet)
        if left is None:
            return False  # the packet has no such field: the rule ends, whatever the comparison
        if isinstance(right, str) and right.startswith("@"):
            inside = self._sets[right[1:]].find(left) is not _ABSENT
        else:
            wanted = right["set"] if isinstance(right, dict) and "set" in right else [right]
            inside = len(left) == 1 and any(_is(left[0], each) for each in wanted)
        return bool(inside == (operator == "=="))

    def _read(self, expression: dict[str, Any], packet: Packet) -> tuple[Value, ...] | None:
        """The value of an expression, as parts of a key; None when the packet has no such field."""
        parts = expression.get("concat", [expression])
        values = []
        for part in parts:
            value = _masked(part["&"], packet) if "&" in part else packet.get(_name(part))
            if value is None:
                return None
            values.append(value)
        return tuple(values)


def _numbers(value: Any) -> set[int]:
    """The numbers in a value: one, some, or the ends of a range and what lies between."""
    if isinstance(value, int):
        return {value}
    if isinstance(value, dict) and "range" in value:
        low, high = value["range"]
        return {low, (low + high) // 2, high}
    if isinstance(value, dict) and "set" in value:
        return {number for each in value["set"] for number in _numbers(each)}
    raise ReadbackError(f"port {value} is not known")


def _name(expression: dict[str, Any]) -> str:
    ((kind, body),) = expression.items()
    if kind == "payload":
        return f"{body['protocol']} {body['field']}"
    if kind in ("meta", "ct"):
        return f"{kind} {body['key']}"
    raise ReadbackError(f"expression {kind} is not known")


def _masked(operands: list[Any], packet: Packet) -> Value | None:
    """A field with a mask: flags of TCP by their names, or bytes of a MAC."""
    value = packet.get(_name(operands[0]))
    if isinstance(value, frozenset):
        chosen = value & frozenset(operands[1])
        return next(iter(chosen)) if len(chosen) == 1 else chosen
    if isinstance(value, str):
        bytes_ = (
            int(one, 16) & int(mask, 16) for one, mask in zip(value.split(":"), operands[1].split(":"), strict=True)
        )
        return ":".join(f"{byte:02x}" for byte in bytes_)
    return None


@lru_cache(maxsize=1 << 16)
def _number(address: str) -> int:
    return int(IPv4Address(address))


@lru_cache(maxsize=1 << 16)
def _network(address: str, length: int) -> tuple[int, int]:
    network = IPv4Network((address, length))
    return int(network.network_address), int(network.netmask)


def _is(value: Value, wanted: Any) -> bool:
    if isinstance(wanted, dict) and "prefix" in wanted:
        network, mask = _network(wanted["prefix"]["addr"], wanted["prefix"]["len"])
        return isinstance(value, str) and _number(value) & mask == network
    if isinstance(wanted, dict) and "range" in wanted:
        low, high = wanted["range"]
        return isinstance(value, int) and isinstance(low, int) and low <= value <= high
    if isinstance(wanted, dict):
        raise ReadbackError(f"value {wanted} is not known")
    return bool(value == wanted)
