# SPDX-License-Identifier: GPL-2.0-or-later
"""What an nftables rule set does with a packet, read back from the JSON that the kernel is given.

A second opinion: nothing here knows how the rules were made, only what libnftables-json(5) and nft(8) say that they
mean. A statement that is not known is an error, never a guess.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
_ETHER_TYPE = {"payload": {"protocol": "ether", "field": "type"}}
_NO_EFFECT = frozenset({"counter", "log"})
_ABSENT: Any = object()


@dataclass
class _Chain:
    hook: str | None
    priority: int
    policy: str
    translates: bool = False
    rules: list[list[dict[str, Any]]] = field(default_factory=list)


@dataclass
class _Set:
    """Members by key, with the verdict for a map; `wide` holds those that are intervals."""

    exact: dict[Any, Any] = field(default_factory=dict)
    wide: dict[Any, list[tuple[tuple[Any, ...], Any]]] = field(default_factory=dict)
    """By their first part, or None where that is an interval itself."""

    def add(self, parts: tuple[Any, ...], verdict: Any) -> None:
        if not all(isinstance(part, str | int | dict) for part in parts):
            raise ReadbackError(f"value {parts} is not known")
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
        self._hooks: dict[str, tuple[str, ...]] = {}
        self._understood: dict[str, list[list[_Statement]]] = {}
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
                hook, translates = body.get("hook"), body.get("type") == "nat"
                chain = _Chain(hook, body.get("prio", 0), body.get("policy", "accept"), translates)
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

    def ethertypes(self) -> frozenset[int]:
        """Every ethertype that a rule, or a set that it asks, names by its number."""
        found: set[Any] = set()
        for chain in self._chains.values():
            for body in (statement["match"] for rule in chain.rules for statement in rule if "match" in statement):
                parts, right = body["left"].get("concat", [body["left"]]), body["right"]
                if _ETHER_TYPE not in parts:
                    continue
                if isinstance(right, str) and right.startswith("@"):
                    found |= {key[parts.index(_ETHER_TYPE)] for key in self._sets[right[1:]].exact}
                else:
                    found.update(right["set"] if isinstance(right, dict) else [right])
        return frozenset(number for number in found if isinstance(number, int))

    def passes(self, hook: str, packet: Packet) -> bool:
        """Whether a packet leaves the chains of a hook: `forward` or `input`, after `prerouting`; or `output`.

        A packet that is led to the machine itself is not forwarded.

        Raises:
            ReadbackError: a chain that the packet reaches holds something that is not understood.
        """
        seen: dict[str, Value] = dict(packet)
        if hook != "output" and not self._hooked("prerouting", seen):
            return False
        if hook == "forward" and "redirected to" in seen:
            return False
        return self._hooked(hook, seen) and bool(self._at(hook))

    def led_to(self, packet: Packet) -> int | None:
        """The port of the machine itself to which a packet is led instead of being forwarded, if any."""
        seen: dict[str, Value] = dict(packet)
        port = seen.get("redirected to") if self._hooked("prerouting", seen) else None
        return port if isinstance(port, int) else None

    def _hooked(self, hook: str, packet: dict[str, Value]) -> bool:
        for name in self._at(hook):
            if self._chains[name].translates and packet.get("ct state") != "new":
                continue  # the kernel asks them once a connection
            if (self._run(name, packet, 0) or self._chains[name].policy) != "accept":
                return False
        return True

    def _at(self, hook: str) -> tuple[str, ...]:
        """The chains of a hook in the order in which the kernel asks them."""
        if hook not in self._hooks:
            found = [(chain.priority, name) for name, chain in self._chains.items() if chain.hook == hook]
            self._hooks[hook] = tuple(name for _, name in sorted(found, key=lambda each: each[0]))
        return self._hooks[hook]

    def _run(self, name: str, packet: dict[str, Value], depth: int) -> str | None:
        """`accept`, `drop`, or None at the end of the chain."""
        if depth > MAX_DEPTH:
            raise ReadbackError("chains call each other deeper than the kernel allows")
        rules = self._understood.get(name)
        if rules is None:
            rules = self._understood[name] = [self._rule(rule) for rule in self._chains[name].rules]
        for statements in rules:
            for statement in statements:
                verdict = statement(packet, depth)
                if verdict is _ON:
                    continue
                if verdict is _NEXT:
                    break
                return None if verdict == "return" else verdict
        return None

    # statements, each made once into a function of the packet

    def _rule(self, rule: list[dict[str, Any]]) -> list[_Statement]:
        made = []
        for statement in rule:
            ((kind, body),) = statement.items()
            if kind == "match":
                made.append(self._match(body))
            elif kind in ("accept", "drop", "return"):
                made.append(_verdict(kind))
            elif kind in ("jump", "goto"):
                made.append(self._call(body["target"], goes=kind == "goto"))
            elif kind == "vmap":
                made.append(self._by_map(body))
            elif kind == "notrack":
                made.append(_untracked)
            elif kind == "redirect":
                made.append(_redirecting(body["port"]))
            elif kind == "mangle":
                made.append(_setting(_name(body["key"]), body["value"]))
            elif kind in ("limit", "set"):
                # Rates bound what is recorded. They could also bound what passes, and then nothing is certain.
                if "accept" in {word for other in rule for word in other}:
                    raise ReadbackError("a rule accepts up to a rate: what passes depends on time")
                if kind == "set" or body.get("inv"):
                    made.append(_verdict(_NEXT))
            elif kind not in _NO_EFFECT:
                raise ReadbackError(f"statement {kind} is not known")
        return made

    def _call(self, chain: str, *, goes: bool) -> _Statement:
        def call(packet: dict[str, Value], depth: int) -> str:
            verdict = self._run(chain, packet, depth + 1)
            return verdict or ("return" if goes else _ON)

        return call

    def _by_map(self, body: dict[str, Any]) -> _Statement:
        read, members = _reader(body["key"]), self._sets[str(body["data"])[1:]]

        def by_map(packet: dict[str, Value], depth: int) -> str:
            key = read(packet)
            found = _ABSENT if key is None else members.find(key)
            if found is _ABSENT:
                return _ON
            ((kind, target),) = found.items()
            if kind not in ("goto", "jump"):
                return str(kind)
            return self._call(target["target"], goes=kind == "goto")(packet, depth)

        return by_map

    def _match(self, body: dict[str, Any]) -> _Statement:
        operator, right = body["op"], body["right"]
        if operator not in ("==", "!="):
            raise ReadbackError(f"comparison {operator} is not known")
        read, equal = _reader(body["left"]), operator == "=="
        if isinstance(right, str) and right.startswith("@"):
            members = self._sets[right[1:]]
        else:
            members = _Set()
            constants = right["set"] if isinstance(right, dict) and "set" in right else [right]
            if not constants:
                raise ReadbackError("a comparison with nothing: nftables refuses such rules")
            for each in constants:
                members.add((each,), None)

        def match(packet: dict[str, Value], _depth: int) -> str:
            left = read(packet)
            # A packet without such a field ends the rule, whatever the comparison.
            return _ON if left is not None and (members.find(left) is not _ABSENT) == equal else _NEXT

        parts = body["left"].get("concat", [body["left"]])
        if len(parts) == 1 and "&" not in parts[0] and not members.wide:
            return _one_of(_name(parts[0]), frozenset(key[0] for key in members.exact if len(key) == 1), equal)
        return match


_ON, _NEXT = "on", "next"
"""The next statement of the rule, the next rule of the chain."""
_Statement = Callable[[dict[str, Value], int], str]
"""What a statement says of a packet, at a depth of chains: a verdict, `_ON` or `_NEXT`."""


def _verdict(word: str) -> _Statement:
    return lambda _packet, _depth: word


def _one_of(name: str, values: frozenset[Value], equal: bool) -> _Statement:
    """Most comparisons: of one field with values, none of them an interval. It decides how long a reading takes."""
    found, other = (_ON, _NEXT) if equal else (_NEXT, _ON)

    def one_of(packet: dict[str, Value], _depth: int) -> str:
        if name not in packet:
            return _NEXT
        return found if packet[name] in values else other

    return one_of


def _untracked(packet: dict[str, Value], _depth: int) -> str:
    packet["ct state"] = "untracked"
    packet.pop("ct direction", None)
    return _ON


def _redirecting(port: int) -> _Statement:
    """Makes the machine itself the target; conntrack remembers whom the packet named (nft(8), NAT statements)."""

    def redirect(packet: dict[str, Value], _depth: int) -> str:
        if "tcp dport" not in packet:
            raise ReadbackError("a rule leads packets without a port of TCP to one")
        packet["ct original ip daddr"], packet["ct original proto-dst"] = packet["ip daddr"], packet["th dport"]
        packet["redirected to"] = packet["th dport"] = packet["tcp dport"] = port
        return "accept"

    return redirect


def _setting(name: str, value: Value) -> _Statement:
    def setting(packet: dict[str, Value], _depth: int) -> str:
        packet[name] = value
        return _ON

    return setting


def _reader(expression: dict[str, Any]) -> Callable[[Packet], tuple[Value, ...] | None]:
    """Reads an expression of a packet, as parts of a key; None when the packet has no such field."""
    parts = expression.get("concat", [expression])
    if len(parts) == 1 and "&" in parts[0]:
        operands = parts[0]["&"]

        def masked(packet: Packet) -> tuple[Value, ...] | None:
            value = _masked(operands, packet)
            return None if value is None else (value,)

        return masked
    names = tuple(map(_name, parts))
    if len(names) == 1:
        (name,) = names
        return lambda packet: (packet[name],) if name in packet else None

    def read(packet: Packet) -> tuple[Value, ...] | None:
        try:
            return tuple([packet[name] for name in names])
        except KeyError:
            return None

    return read


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
    if kind == "ct" and "dir" in body:
        return f"ct {body['dir']} {body['key']}"
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
