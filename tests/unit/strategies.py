# SPDX-License-Identifier: GPL-2.0-or-later
"""Random infrastructures for property tests. `infrastructures()` passes every cross check; `leaky=True` also draws
downward flows and people whom nobody trusts (which the proof of flows has to find).
"""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import strategies as st

from vinci.model.infrastructure import Infrastructure, Label, Operation
from vinci.model.labels import Lattice, permitted

REASON = "a reason that is long enough"
LEVELS = ("low", "middle", "high")
CATEGORIES = ("red", "green", "blue")
SERVICES = ("https", "ssh", "modbus", "tcp/8080", "udp/514", "plant")


@st.composite
def declarations(draw: st.DrawFn, *, leaky: bool = False) -> dict[str, Any]:
    """The plain data of a valid file, as YAML would give it."""
    levels = list(LEVELS[: draw(st.integers(1, 3))])
    categories = list(CATEGORIES[: draw(st.integers(0, 3))])
    labels = {"levels": levels, "categories": categories, "named": draw(_named(levels, categories))}
    label = _labels(levels, categories, list(labels["named"]))
    communities = {f"com{number}": draw(_community(label, number)) for number in range(draw(st.integers(1, 5)))}
    users = {
        f"user{number}": draw(_user(number, list(communities), leaky)) for number in range(draw(st.integers(0, 6)))
    }
    data: dict[str, Any] = {
        "vinci": 1,
        "name": "random",
        "labels": labels,
        "communities": communities,
        "users": users,
        "file_servers": {f"fs{number}": {} for number in range(draw(st.integers(1, 3)))},
        "services": {"plant": {"port": 9000, "protocol": draw(st.sampled_from(["tcp", "udp"]))}},
        "nodes": {"n1": {}},
    }
    lattice = Lattice(Infrastructure.model_validate(data).labels)
    data["shares"] = {
        f"share{number}": draw(_share(data, lattice, label, number)) for number in range(draw(st.integers(0, 5)))
    }
    data["shares"].update(draw(_homes(data)))
    data["flows"] = draw(_flows(data, lattice, leaky))
    return data


class _Dumper(yaml.SafeDumper):
    """Writes shared values out: the file format has no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(data: object) -> bytes:
    """The data as an administrator would write it."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False).encode()


def infrastructures(*, leaky: bool = False) -> st.SearchStrategy[Infrastructure]:
    """Valid infrastructures."""
    return declarations(leaky=leaky).map(Infrastructure.model_validate)


def _labels(levels: list[str], categories: list[str], named: list[str]) -> st.SearchStrategy[Any]:
    subsets = st.lists(st.sampled_from(categories), unique=True) if categories else st.just([])
    inline = st.fixed_dictionaries({"level": st.sampled_from(levels), "categories": subsets})
    return st.one_of(inline, st.sampled_from(named)) if named else inline


@st.composite
def _named(draw: st.DrawFn, levels: list[str], categories: list[str]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for number in range(draw(st.integers(0, 3))):
        entry: dict[str, Any] = {"level": draw(st.sampled_from(levels))}
        if categories:
            entry["categories"] = draw(st.lists(st.sampled_from(categories), unique=True))
        if named and draw(st.booleans()):
            entry["includes"] = draw(st.lists(st.sampled_from(list(named)), unique=True, min_size=1))
            if draw(st.booleans()):
                del entry["level"]
        named[f"label{number}"] = entry
    return named


@st.composite
def _community(draw: st.DrawFn, label: st.SearchStrategy[Any], number: int) -> dict[str, Any]:
    app_vms: dict[str, Any] = {"mode": draw(st.sampled_from(["shared", "per-user"]))}
    app_vms["peers"] = draw(st.sampled_from(["none", "all"]))
    if app_vms["mode"] == "shared":
        app_vms["count"] = draw(st.integers(1, 3))
    community = {"label": draw(label), "app_vms": app_vms}
    if draw(st.booleans()):
        community["network"] = f"10.20.{number}.0/24"
    return community


@st.composite
def _user(draw: st.DrawFn, number: int, communities: list[str], leaky: bool) -> dict[str, Any]:
    memberships = draw(st.lists(st.sampled_from(communities), unique=True, min_size=1, max_size=3))
    user: dict[str, Any] = {"uid": 2000 + number, "communities": {}}
    for name in memberships:
        user["communities"][name] = {"local_uid": 3000 + number} if draw(st.booleans()) else {}
    if not leaky or draw(st.booleans()):
        user.update(trusted=len(memberships) > 1, reason=REASON)
    return user


@st.composite
def _share(draw: st.DrawFn, data: dict[str, Any], lattice: Lattice, label: Any, number: int) -> dict[str, Any]:
    wanted = draw(label)
    resolved = lattice.resolve(_reference(wanted))
    access: dict[str, list[str]] = {}
    trusted: list[str] = []
    grantees = [
        *data["communities"],
        *(f"{name}:{u}" for u, user in data["users"].items() for name in user["communities"]),
    ]
    reader = draw(st.sampled_from(list(data["communities"])))
    chosen = draw(st.lists(st.sampled_from(grantees), unique=True, max_size=4))
    for grantee in dict.fromkeys([reader, *chosen]):
        community = grantee.partition(":")[0]
        own = lattice.resolve(_reference(data["communities"][community]["label"]))
        operations = draw(st.lists(st.sampled_from(list(Operation)), unique=True, min_size=1))
        if grantee == reader:
            operations = list(dict.fromkeys([Operation.READ, *operations]))
        if not all(permitted(operation, own, resolved) for operation in operations) and community not in trusted:
            trusted.append(community)
        access[grantee] = [operation.value for operation in operations]
    share = {
        "server": draw(st.sampled_from(list(data["file_servers"]))),
        "label": wanted,
        "access": access,
        "mount": f"/shares/share{number}",
    }
    if trusted:
        share["trusted"] = {"communities": trusted, "reason": REASON}
    return share


@st.composite
def _homes(draw: st.DrawFn, data: dict[str, Any]) -> dict[str, Any]:
    return {
        f"homes-{name}": {
            "server": draw(st.sampled_from(list(data["file_servers"]))),
            "kind": "homes",
            "label": community["label"],
            "access": {name: ["read", "write"]},
            "mount": "/home",
        }
        for name, community in data["communities"].items()
        if draw(st.booleans())
    }


@st.composite
def _flows(draw: st.DrawFn, data: dict[str, Any], lattice: Lattice, leaky: bool) -> list[dict[str, Any]]:
    names = list(data["communities"])
    pairs = [(source, to, service) for source in names for to in names if source != to for service in SERVICES]
    flows = []
    for source, to, service in draw(st.lists(st.sampled_from(pairs), unique=True, max_size=6)) if pairs else []:
        own, other = (lattice.resolve(_reference(data["communities"][name]["label"])) for name in (source, to))
        udp = service.startswith("udp") or (service == "plant" and data["services"]["plant"]["protocol"] == "udp")
        one_way = udp and draw(st.booleans())
        flow: dict[str, Any] = {"from": source, "to": to, "service": service, "reason": REASON}
        flow["direction"] = "one-way" if one_way else "both"
        flow["upward"] = not own.dominates(other)
        downward = not other.dominates(own) or (not one_way and not own.dominates(other))
        flow["trusted"] = downward and (not leaky or draw(st.booleans()))
        if service == "modbus" and draw(st.booleans()):
            flow["inspection"] = {
                "gateway": "modbus",
                "functions": draw(st.sampled_from([["read-coils"], ["read-coils", "write-coil"]])),
                "units": ["1-9"],
                "registers": ["0-99"],
            }
        flows.append(flow)
    return flows


def _reference(value: Any) -> Label | str:
    return Label.model_validate(value) if isinstance(value, dict) else value
