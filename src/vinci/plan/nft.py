# SPDX-License-Identifier: GPL-2.0-or-later
"""Words of nftables' JSON (libnftables-json(5)), spelt once for the rules on the bridges and in the FW-VMs.

Nothing here knows about communities: a function per statement, so that a rule in the generators reads like
the line that `nft list ruleset` prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Json = Any
"""A value of nftables' JSON."""

Statement = dict[str, Json]
Command = dict[str, Json]
Ruleset = dict[str, list[Command]]
"""One transaction: `{"nftables": [command, …]}`, applied as a whole or not at all."""


def meta(key: str) -> Json:
    """What the kernel knows about the packet beside its bytes (`iifgroup`, `l4proto`, `mark`, …)."""
    return {"meta": {"key": key}}


def payload(protocol: str, field: str) -> Json:
    """A field of a header, e.g. `payload("ether", "saddr")`."""
    return {"payload": {"protocol": protocol, "field": field}}


def concat(*parts: Json) -> Json:
    """Several values as one key of a set."""
    return {"concat": list(parts)}


def prefix(network: object) -> Json:
    """An IPv4Network as nftables writes it."""
    address, length = str(network).split("/")
    return {"prefix": {"addr": address, "len": int(length)}}


def match(left: Json, right: Json, op: str = "==") -> Statement:
    """Goes on with the next statement only if `left op right`."""
    return {"match": {"op": op, "left": left, "right": right}}


def in_set(left: Json, name: str) -> Statement:
    """Goes on only if `left` is an element of the named set."""
    return match(left, f"@{name}")


def one_of(left: Json, values: Iterable[Json]) -> Statement:
    """Goes on only if `left` is one of a few constants."""
    return match(left, {"set": list(values)})


def vmap(key: Json, name: str) -> Statement:
    """Takes the verdict that the named map holds for `key`; goes on if there is none."""
    return {"vmap": {"key": key, "data": f"@{name}"}}


def jump(chain: str) -> Statement:
    """Runs a chain and comes back if it gives no verdict."""
    return {"jump": {"target": chain}}


def goto(chain: str) -> Statement:
    """Runs a chain instead of the rest of this one."""
    return {"goto": {"target": chain}}


def set_mark(value: int) -> Statement:
    """Marks the packet; the mark travels with the record of the packet."""
    return {"mangle": {"key": meta("mark"), "value": value}}


def more_connections_than(number: int, key: Json, name: str) -> Statement:
    """Goes on only if conntrack has more connections than that with the same `key`; `name` is a dynamic set for it."""
    count = {"ct count": {"val": number, "inv": True}}
    return {"set": {"op": "add", "elem": key, "set": f"@{name}", "stmt": [count]}}


def rate_each(limit: Statement, key: Json, name: str) -> Statement:
    """Goes on only within the limit, which each `key` has for itself; `name` is a set with a time-out for it."""
    return {"set": {"op": "update", "elem": key, "set": f"@{name}", "stmt": [limit]}}


COUNT: Statement = {"counter": {"packets": 0, "bytes": 0}}
DROP: Statement = {"drop": None}
ACCEPT: Statement = {"accept": None}


@dataclass(frozen=True, slots=True)
class Table:
    """One table: the commands that concern it."""

    family: str
    name: str

    @property
    def _where(self) -> dict[str, str]:
        return {"family": self.family, "table": self.name}

    def fresh(self) -> list[Command]:
        """Commands that leave the table empty, whether it existed or not."""
        table = {"table": {"family": self.family, "name": self.name}}
        return [{"add": table}, {"delete": table}, {"add": table}]

    def chain(self, name: str) -> Command:
        """A chain that is reached by jump or goto only."""
        return {"add": {"chain": {**self._where, "name": name}}}

    def base_chain(self, hook: str, priority: int) -> Command:
        """A chain named like its hook, dropping what it does not accept."""
        base = {"type": "filter", "hook": hook, "prio": priority, "policy": "drop"}
        return {"add": {"chain": {**self._where, "name": hook, **base}}}

    def nat_chain(self, name: str, hook: str, priority: int) -> Command:
        """A base chain that translates addresses and drops nothing."""
        base = {"type": "nat", "hook": hook, "prio": priority, "policy": "accept"}
        return {"add": {"chain": {**self._where, "name": name, **base}}}

    def rule(self, chain: str, *statements: Statement) -> Command:
        """A rule at the end of a chain."""
        return {"add": {"rule": {**self._where, "chain": chain, "expr": list(statements)}}}

    def remove_chain(self, name: str) -> list[Command]:
        """Commands that leave no such chain, whether it existed or not."""
        chain = {"chain": {**self._where, "name": name}}
        return [{"add": chain}, {"flush": chain}, {"delete": chain}]

    def flush_chain(self, name: str) -> Command:
        """Empties a chain."""
        return {"flush": {"chain": {**self._where, "name": name}}}

    def set(self, name: str, type_: Sequence[str], **options: Json) -> Command:
        """A set; `options` such as `flags`, `timeout`, `size`."""
        # A list of one type is a concatenation to nftables 1.0.6, and its elements get the wrong byte order.
        key = list(type_) if len(type_) > 1 else type_[0]
        return {"add": {"set": {**self._where, "name": name, "type": key, **options}}}

    def verdict_map(self, name: str, key: str) -> Command:
        """A map from a key to a verdict."""
        return {"add": {"map": {**self._where, "name": name, "type": key, "map": "verdict"}}}

    def add_elements(self, name: str, elements: Sequence[Json]) -> list[Command]:
        """Adds elements to a set or map; those that it has are left alone."""
        return [{"add": {"element": {**self._where, "name": name, "elem": list(elements)}}}] if elements else []

    def remove_elements(self, name: str, elements: Sequence[Json]) -> list[Command]:
        """Leaves none of these elements in a set or map, whether it had them or not.

        Deleting an absent element is an error, so each is added first: both happen in one transaction.
        """
        if not elements:
            return []
        return [
            *self.add_elements(name, elements),
            {"delete": {"element": {**self._where, "name": name, "elem": list(elements)}}},
        ]
