# SPDX-License-Identifier: GPL-2.0-or-later
"""Random infrastructures: what property tests and `bench/random_infrastructures.py` have in common.

A source of randomness is passed in: hypothesis gives one that it can shrink, the bench a seeded one. Everything that
comes out passes every cross check; `leaky` also leaves downward flows, grants and people untrusted, which the proof of
flows has to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

from vinci.model.infrastructure import Infrastructure, Label, Operation
from vinci.model.inspection import ModbusFunction
from vinci.model.labels import Lattice, PlannedLabel, permitted

REASON = "a reason that is long enough"
LEVELS = ("low", "middle", "high")
CATEGORIES = ("red", "green", "blue")
SERVICES = ("https", "http", "ssh", "modbus", "tcp/8080", "udp/514", "plant")
"""Two of them have gateways."""
PATHS = ("/", "/*", "/news", "/news/*", "/a/b~c", "/a*")
ETHERTYPES = (0x0600, 0x88B8, 0x88BA, 0x8892, 0xFFFF)
"""The first and the last that there can be, and some that plants use."""
NAMES = ("alpha", "a-1", "b", "beta-2", "gamma")
"""With a hyphen, with one letter, and one that begins like another."""

Item = TypeVar("Item")
Data = dict[str, Any]


def random_declaration(random: Random, *, leaky: bool = False) -> Data:
    """The plain data of a valid file, as YAML would give it."""
    levels, categories = list(LEVELS[: random.randint(1, 3)]), list(CATEGORIES[: random.randint(0, 3)])
    named = _named(random, levels, categories)
    communities = {
        name: _community(random, _label(random, levels, categories, named), number)
        for number, name in enumerate(_some(random, NAMES, 1, 4))
    }
    users = {f"user{number}": _user(random, number, list(communities), leaky) for number in range(random.randint(0, 4))}
    data: Data = {
        "vinci": 1,
        "name": "random",
        "labels": {"levels": levels, "categories": categories, "named": named},
        "communities": communities,
        "users": users,
        "file_servers": {f"fs{number}": {} for number in range(random.choice((1, 1, 1, 1, 1, 1, 2, 3)))},
        "services": {"plant": {"port": 9000, "protocol": random.choice(("tcp", "udp"))}},
        "nodes": {"n1": {}},
    }
    lattice = Lattice(Infrastructure.model_validate(data).labels)
    shares = {
        f"share{number}": _share(random, data, lattice, _label(random, levels, categories, named), number, leaky)
        for number in range(random.randint(0, 4))
    }
    data["shares"] = {**shares, **_homes(random, data)}
    data["flows"] = _flows(random, data, lattice, leaky)
    for community in communities.values():
        if random.randint(0, 1):
            community["ethertypes"] = _some(random, ETHERTYPES, 1, 3)
    return data


def _some(random: Random, items: Sequence[Item], least: int, most: int) -> list[Item]:
    """Some of the items, none twice."""
    return random.sample(items, random.randint(least, min(most, len(items))))


def _label(random: Random, levels: Sequence[str], categories: Sequence[str], named: Data) -> Any:
    if named and random.randint(0, 1):
        return random.choice(list(named))
    return {"level": random.choice(levels), "categories": _some(random, categories, 0, len(categories))}


def _named(random: Random, levels: Sequence[str], categories: Sequence[str]) -> Data:
    named: Data = {}
    for number in range(random.randint(0, 3)):
        entry: Data = {"level": random.choice(levels)}
        if categories:
            entry["categories"] = _some(random, categories, 0, len(categories))
        if named and random.randint(0, 1):
            entry["includes"] = _some(random, list(named), 1, 3)
            if random.randint(0, 1):
                del entry["level"]
        named[f"label{number}"] = entry
    return named


def _community(random: Random, label: Any, number: int) -> Data:
    app_vms: Data = {"mode": random.choice(("shared", "per-user")), "peers": random.choice(("none", "all"))}
    if app_vms["mode"] == "shared":
        app_vms["count"] = random.choice((1, 1, 2, 3))
    community = {"label": label, "app_vms": app_vms}
    if random.randint(0, 1):
        community["network"] = f"10.20.{number}.0/24"
    return community


def _user(random: Random, number: int, communities: Sequence[str], leaky: bool) -> Data:
    memberships = _some(random, communities, 1, 3)
    user: Data = {"uid": 2000 + number, "communities": {}}
    for name in memberships:
        user["communities"][name] = {"local_uid": 3000 + number} if random.randint(0, 1) else {}
    if not leaky or random.randint(0, 1):
        user.update(trusted=len(memberships) > 1, reason=REASON)
    return user


def _share(random: Random, data: Data, lattice: Lattice, label: Any, number: int, leaky: bool) -> Data:
    resolved = lattice.resolve(_reference(label))
    people = [f"{name}:{user}" for user, entry in data["users"].items() for name in entry["communities"]]
    reader = random.choice(list(data["communities"]))
    access: dict[str, list[str]] = {}
    trusted: list[str] = []
    for grantee in dict.fromkeys([reader, *_some(random, [*data["communities"], *people], 0, 3)]):
        community = grantee.partition(":")[0]
        own = lattice.resolve(_reference(data["communities"][community]["label"]))
        operations = _some(random, list(Operation), 1, 4)
        if grantee == reader:
            operations = list(dict.fromkeys([Operation.READ, *operations]))
        if random.randint(0, 1):  # what the labels permit: otherwise nearly everybody would be trusted
            operations = [operation for operation in operations if permitted(operation, own, resolved)] or operations
        if not all(permitted(operation, own, resolved) for operation in operations) and community not in trusted:
            trusted.append(community)
        access[grantee] = [operation.value for operation in operations]
    if not any({"read", "execute"} & set(operations) for operations in access.values()):
        access[reader] = [*access[reader], "read"]
        trusted = list(dict.fromkeys([*trusted, reader]))
    share = {
        "server": random.choice(list(data["file_servers"])),
        "label": label,
        "access": access,
        "mount": f"/shares/share{number}",
    }
    if trusted and not (leaky and not _written_up(data, lattice, resolved, access) and random.randint(0, 1)):
        share["trusted"] = {"communities": trusted, "reason": REASON}
    return share


def _written_up(data: Data, lattice: Lattice, share: PlannedLabel, access: dict[str, list[str]]) -> bool:
    """True when somebody writes to a higher share: no leak, but nothing that passes without trust."""
    owners = [grantee.partition(":")[0] for grantee, operations in access.items() if "write" in operations]
    labels = [lattice.resolve(_reference(data["communities"][name]["label"])) for name in owners]
    return any(share.dominates(own) and not own.equals(share) for own in labels)


def _homes(random: Random, data: Data) -> Data:
    return {
        f"homes-{name}": {
            "server": random.choice(list(data["file_servers"])),
            "kind": "homes",
            "label": community["label"],
            "access": {name: ["read", "write"]},
            "mount": "/home",
        }
        for name, community in data["communities"].items()
        if random.randint(0, 1)
    }


def _flows(random: Random, data: Data, lattice: Lattice, leaky: bool) -> list[Data]:
    names = list(data["communities"])
    pairs = [(source, to, service) for source in names for to in names if source != to for service in SERVICES]
    flows = []
    for source, to, service in _some(random, pairs, 0, 4):
        own, other = (lattice.resolve(_reference(data["communities"][name]["label"])) for name in (source, to))
        udp = service.startswith("udp") or (service == "plant" and data["services"]["plant"]["protocol"] == "udp")
        one_way = udp and random.randint(0, 1) == 1
        flow: Data = {"from": source, "to": to, "service": service, "reason": REASON}
        flow["direction"] = "one-way" if one_way else "both"
        flow["upward"] = not own.dominates(other)
        downward = not other.dominates(own) or (not one_way and not own.dominates(other))
        flow["trusted"] = downward and (not leaky or random.randint(0, 1) == 1)
        if service in ("modbus", "http") and random.randint(0, 3):
            flow["inspection"] = _inspection(random, service)
        flows.append(flow)
    return flows


def _inspection(random: Random, service: str) -> Data:
    rate = {"rate": random.choice((1, 100, 100_000))} if random.randint(0, 1) else {}
    if service == "http":
        body = {"max_body_bytes": random.choice((0, 1, 1024, 67_108_864))} if random.randint(0, 1) else {}
        methods = _some(random, ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"), 1, 4)
        return {"gateway": "http", "methods": methods, "paths": _some(random, PATHS, 1, 4), **body, **rate}
    return {
        "gateway": "modbus",
        "functions": _some(random, [function.value for function in ModbusFunction], 1, 4),
        "units": _ranges(random, 255),
        "registers": _ranges(random, 65_535),
        **rate,
    }


def _ranges(random: Random, most: int) -> list[str]:
    """Numbers and ranges, at times beside each other, one in another, or at the ends of what there is."""
    ends = (0, 1, 2, 9, 10, 11, most // 2, most - 1, most)
    pairs = [sorted(random.choices(ends, k=2)) for _ in range(random.randint(1, 3))]
    return [str(low) if low == high and random.randint(0, 1) else f"{low}-{high}" for low, high in pairs]


def _reference(value: Any) -> Label | str:
    return Label.model_validate(value) if isinstance(value, dict) else value
