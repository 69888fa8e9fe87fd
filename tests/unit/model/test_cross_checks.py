# SPDX-License-Identifier: GPL-2.0-or-later
"""Each cross check: a right file passes, the same file with one mistake is refused with the line and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from strategies import declarations, to_yaml

from vinci.model.infrastructure import Infrastructure
from vinci.model.load import DeclarationError, parse
from vinci.model.problems import Severity

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))

VALID = """\
vinci: 1
name: small
labels:
  levels: [low, high]
  categories: [red, blue]
  named:
    base: {level: low}
    top: {includes: [base], level: high, categories: [red, blue]}
communities:
  staff: {label: base, network: 10.1.0.0/24}
  board:
    label: top
    app_vms: {mode: per-user}
users:
  anna: {uid: 2001, communities: {staff: {}}}
  bert: {uid: 2002, communities: {staff: {}, board: {local_uid: 1500}}, trusted: true, reason: is the director}
  carl: {uid: 2003, communities: {board: {}}}
file_servers:
  fs1: {node: n1}
shares:
  notes:
    server: fs1
    label: {level: low}
    mount: /shares/notes
    access: {staff: [read, write], "board:carl": [read]}
  inbox:
    server: fs1
    label: {level: high, categories: [red, blue]}
    mount: /shares/inbox
    access: {staff: [append], board: [read, write]}
  homes-staff: {server: fs1, kind: homes, label: base, mount: /home, access: {staff: [read, write]}}
services:
  planner: {port: 8443}
flows:
  - {from: board, to: staff, service: planner, trusted: true, reason: the planner shows no secrets}
  - {from: staff, to: board, service: udp/514, direction: one-way, upward: true, reason: logs go up only}
login:
  - {user: bert, community: board, between: 13:00-15:00}
  - {community: staff, node: n1}
nodes:
  n1: {memory_mib: 65536}
"""


class Mistake(NamedTuple):
    """Text of VALID, what is written instead, and the problem that has to be told on that line."""

    instead_of: str
    written: str
    wrong: str
    right: str = ""
    severity: Severity = Severity.ERROR


ERRORS = [
    Mistake("levels: [low, high]", "levels: [low, high, low]", '"low" stands twice in levels'),
    Mistake("categories: [red, blue]\n  n", "categories: [red, red, blue]\n  n", '"red" stands twice in categories'),
    Mistake("base: {level: low}", "base: {level: lo}", 'unknown level "lo"', 'did you mean "low"?'),
    Mistake("base: {level: low}", "base: {}", "neither a level nor included"),
    Mistake("base: {level: low}", "base: {level: low, categories: [green]}", 'unknown category "green"'),
    Mistake("base: {level: low}", "base: {level: low, includes: [top]}", "include each other in a circle"),
    Mistake("includes: [base]", "includes: [bass]", 'unknown label "bass"', 'did you mean "base"?'),
    Mistake("{label: base, n", "{label: low, n", '"low" is a level, not a label', "{level: low}"),
    Mistake("{label: base, n", "{label: none, n", 'unknown label "none"'),
    Mistake("uid: 2002", "uid: 2001", "UID 2001 is also anna's"),
    Mistake("{local_uid: 1500}", "{local_uid: 2003}", "both have the UID 2003"),
    Mistake(
        "anna: {uid: 2001, communities: {staff: {}}", "anna: {uid: 2001, communities: {stuff: {}}", 'community "stuff"'
    ),
    Mistake("  anna:", "  daemon:", "system account"),
    Mistake(", reason: is the director", "", "trusted without a reason"),
    Mistake("reason: is the director", "reason: '          '", "trusted without a reason"),
    Mistake("reason: the planner shows no secrets", "reason: '          '", "declared trusted without a reason"),
    Mistake("reason: logs go up only", "reason: '   short  '", "its reason is too short", "at least 8"),
    Mistake(
        "access: {staff: [append],",
        "trusted: {communities: [staff], reason: '          '}\n    access: {staff: [append],",
        "not possible here",
        "a reason of at least 8 characters",
    ),
    Mistake(
        "access: {staff: [append],",
        "trusted: {communities: [staff], reason: '  short  '}\n    access: {staff: [append],",
        "not possible here",
    ),
    Mistake("network: 10.1.0.0/24", "network: 10.255.1.0/24", "overlaps"),
    Mistake("network: 10.1.0.0/24", "network: 10.1.0.0/30", "is a /30"),
    Mistake("network: 10.1.0.0/24", "network: 127.0.0.0/24", "loopback"),
    Mistake("network: 10.1.0.0/24", "network: 10.1.0.0/24, app_vms: {count: 300}", "addresses for 245", "a /23"),
    Mistake("    label: top\n", "    label: top\n    network: 10.1.0.128/25\n", "overlaps"),
    Mistake("nodes:", "transit: 10.9.0.0/31\nnodes:", "no address for each of 2 FW-VMs"),
    Mistake("nodes:", "address_pool: 10.9.0.0/25\nnodes:", "smaller than one /24"),
    Mistake("fs1: {node: n1}", "fs1: {node: n2}", 'unknown node "n2"'),
    Mistake("fs1: {node: n1}", "fs1: {}\n  staff-1: {}", 'two VMs would be called "staff-1"'),
    Mistake(
        "  carl: {uid",
        "  fw: {uid: 2010, communities: {board: {}}}\n  carl: {uid",
        'two VMs would be called "board-fw"',
    ),
    Mistake("fs1: {node: n1}", "fs1: {}\n" + "".join(f"  f{n}: {{}}\n" for n in range(8)), "more than 8 file servers"),
    Mistake("label: {level: low}", "label: {level: high}", "staff may not write", "trusted"),
    Mistake("staff: [append]", "staff: [write]", "staff may not write", "trusted"),
    Mistake("board: [read, write]}", "board: [write]}", 'nobody can read "inbox"'),
    Mistake('"board:carl"', '"board:anna"', "anna is not in board"),
    Mistake('"board:carl"', '"board:karl"', 'unknown user "karl"', 'did you mean "carl"?'),
    Mistake("{staff: [append]", "{stuff: [append]", 'unknown community "stuff"'),
    Mistake(
        "server: fs1\n    label: {level: low}", "server: fs2\n    label: {level: low}", 'unknown file server "fs2"'
    ),
    Mistake("mount: /shares/inbox", "mount: /shares/notes", "both mounted at /shares/notes"),
    Mistake("mount: /shares/inbox", "mount: /shares/notes/in", "mounted inside"),
    Mistake("mount: /shares/inbox", "mount: /etc/ssh", "belongs to the APP-VM's own system"),
    Mistake("mount: /shares/inbox", "mount: /shares/../etc", "holds . or .."),
    Mistake(
        "access: {staff: [append],",
        "trusted: {communities: [bored], reason: long enough}\n    access: {staff: [append],",
        'unknown community "bored"',
    ),
    Mistake("access: {staff: [read, write]}}", "access: {staff: [read]}}", "a home directory is read and written"),
    Mistake(
        "access: {staff: [read, write]}}", "access: {staff: [read, write], board: [read]}}", "exactly one community"
    ),
    Mistake("kind: homes, label: base", "kind: homes, label: {level: low, categories: [red]}", "home directories have"),
    Mistake("planner: {port: 8443}", "https: {port: 8443}", "well-known service"),
    Mistake("service: planner", "service: plannr", 'unknown service "plannr"', 'did you mean "planner"?'),
    Mistake("service: planner", "service: tcp/70000", "port 70000 does not exist"),
    Mistake("from: board, to: staff", "from: bored, to: staff", 'unknown community "bored"'),
    Mistake("from: board, to: staff", "from: staff, to: staff", "from staff to itself"),
    Mistake("service: udp/514", "service: planner", "cannot be one-way"),
    Mistake("service: udp/514", "service: udp/67", "DHCP", "use another port"),
    Mistake("upward: true, reason: logs go up only", "upward: true", "declared upward without a reason"),
    Mistake(", upward: true, reason: logs go up only", "", "has a lower label"),
    Mistake(
        "trusted: true, reason: the planner", "trusted: true, description: the planner", 'unknown key "description"'
    ),
    Mistake(
        "login:",
        "  - {from: board, to: staff, service: tcp/8443, trusted: true, reason: once again}\nlogin:",
        "flow 1 is the same",
    ),
    Mistake("user: bert, community: board", "user: carl, community: staff", "carl is not in staff"),
    Mistake("user: bert, community: board", "user: berd, community: board", 'unknown user "berd"'),
    Mistake("community: staff, node: n1", "community: staff, node: n7", 'unknown node "n7"'),
    Mistake("between: 13:00-15:00", "between: 13:00-13:00", "no time at all"),
    Mistake("nodes:", "  - {user: anna, community: staff, node: n1}\nnodes:", "rule 2 does before it"),
    Mistake(
        "service: planner,",
        "service: planner, inspection: {gateway: modbus, functions: [read-coils], units: [300], registers: [9-1]},",
        "300 goes beyond 255",
    ),
    Mistake(
        "service: planner,",
        "service: planner, inspection: {gateway: modbus, functions: [read-coils], units: [3], registers: [9-1]},",
        "9-1 goes backwards",
    ),
]

WARNINGS = [
    Mistake("network: 10.1.0.0/24", "network: 8.8.8.0/24", "public addresses"),
    Mistake("mode: per-user}", "mode: per-user, count: 3}", "`count` means nothing"),
    Mistake("memory_mib: 65536", "memory_mib: 512", "the VMs need"),
    Mistake(
        "carl: {uid: 2003, communities: {board: {}}}",
        "carl: {uid: 2003, communities: {board: {}}, trusted: true, reason: for nothing}",
        "nothing to be trusted with",
    ),
    Mistake("nodes:", "  - {community: board, node: n1}\nnodes:", "users have no password"),
    Mistake(
        "access: {staff: [append],",
        "trusted: {communities: [staff], reason: long enough}\n    access: {staff: [append],",
        "nothing to trust",
    ),
    Mistake(
        '"board:carl": [read]', '"board:carl": [read], "staff:anna": [read]', "all of staff may do what staff:anna may"
    ),
    Mistake(
        "trusted: true, reason: the planner", "upward: true, trusted: true, reason: the planner", "not lead upward"
    ),
    Mistake("upward: true, reason: logs", "upward: true, trusted: true, reason: logs", "passes nothing down"),
]


def test_the_valid_file_is_valid() -> None:
    assert [problem.wrong for problem in parse(VALID.encode()).warnings] == [
        "3 users have no password and cannot log in: anna, bert, carl"
    ]


def told(mistake: Mistake) -> list[str]:
    """What is told about VALID with a mistake in it, each with the text of the line it stands in."""
    assert VALID.count(mistake.instead_of) >= 1, "the mistake has to fit the file"
    text = VALID.replace(mistake.instead_of, mistake.written, 1)
    lines = text.splitlines()
    try:
        problems = parse(text.encode()).warnings
    except DeclarationError as error:
        problems = error.problems
    return [
        f"{lines[problem.line - 1]} >> {problem.wrong} ({problem.right})"
        for problem in problems
        if problem.severity is mistake.severity
    ]


@pytest.mark.parametrize("mistake", ERRORS, ids=lambda mistake: mistake.wrong)
def test_error(mistake: Mistake) -> None:
    matching = [line for line in told(mistake) if mistake.wrong in line and mistake.right in line]
    assert matching, told(mistake)


@pytest.mark.parametrize("mistake", WARNINGS, ids=lambda mistake: mistake.wrong)
def test_warning(mistake: Mistake) -> None:
    found = told(mistake._replace(severity=Severity.WARNING))
    assert any(mistake.wrong in line for line in found), found


def test_all_problems_are_told_at_once() -> None:
    """Malformed values and wrong references in one go; a malformed user is not also an unknown one."""
    text = VALID.replace("uid: 2003", "uid: x").replace("server: fs1", "server: fs9").replace("port: 8443", "prt: 1")
    with pytest.raises(DeclarationError) as caught:
        parse(text.encode())
    wrongs = [problem.wrong for problem in caught.value.problems]
    assert sum('unknown file server "fs9"' in wrong for wrong in wrongs) == 3
    assert '"uid" is "x"' in wrongs
    assert 'unknown key "prt"' in wrongs
    assert not any("unknown user" in wrong or "unknown service" in wrong for wrong in wrongs)
    lines = [problem.line for problem in caught.value.problems]
    assert lines == sorted(lines)


UNKNOWN_SERVER = Mistake("server: fs1\n    label: {level: low}", "server: fs9\n    label: {level: low}", 'server "fs9"')
"""A mistake that a cross check finds, far from the others."""


@pytest.mark.parametrize(
    "mistake",
    [
        Mistake("name: small\n", "name: small\nname: large\n", 'duplicate key "name"'),
        Mistake("uid: 2003,", "uid: 2003, uid: 2004,", 'duplicate key "uid"'),
        Mistake("name: small", "name: !word small", "has no meaning here"),
        Mistake("nodes:\n", "spare: 3\nnodes:\n", 'unknown key "spare"'),
        Mistake("users:\n", "userz:\n", 'unknown key "userz"'),
        Mistake("nodes:\n", "transit: nowhere\nnodes:\n", '"transit" is "nowhere"'),
        Mistake("nodes:\n", "address_pool: nowhere\nnodes:\n", '"address_pool" is "nowhere"'),
        Mistake("vinci: 1\n", "vinci: 2\n", '"vinci" is 2'),
        Mistake("name: small\n", "name: Small One\n", '"name" is "Small One"'),
        Mistake("name: small\n", "", 'no "name"'),
        Mistake("  levels: [low, high]\n", "  levels: low\n", '"levels" is "low"'),
        Mistake("  levels: [low, high]\n", "", '"labels" has no "levels"'),
        Mistake("base: {level: low}", "base: {level: 3}", '"level" is 3'),
        Mistake("services:\n  planner: {port: 8443}\n", "services: 3\n", '"services" is 3'),
        Mistake("n1: {memory_mib: 65536}", "n1: {memory_mib: all}", '"memory_mib" is "all"'),
        Mistake("nodes:\n  n1: {memory_mib: 65536}\n", "", 'no "nodes"'),
    ],
    ids=lambda mistake: mistake.wrong,
)
def test_no_mistake_hides_another(mistake: Mistake) -> None:
    """Both are told; and nothing else, for what is left out as malformed is nobody's wrong reference."""
    text = VALID
    for each in (mistake, UNKNOWN_SERVER):
        assert text.count(each.instead_of) >= 1, each
        text = text.replace(each.instead_of, each.written, 1)
    with pytest.raises(DeclarationError) as caught:
        parse(text.encode())
    wrongs = [problem.wrong for problem in caught.value.problems if problem.severity is Severity.ERROR]
    assert len(wrongs) == 2, wrongs
    for each in (mistake, UNKNOWN_SERVER):
        assert any(each.wrong in wrong for wrong in wrongs), wrongs


@given(declarations())
@settings(max_examples=100)
def test_random_valid_files_load(data: dict[str, object]) -> None:
    declaration = parse(to_yaml(data))
    assert declaration.infrastructure == Infrastructure.model_validate(data)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_have_nothing_to_complain_about(example: Path) -> None:
    assert parse(example.read_bytes(), example.name).warnings == ()


@pytest.mark.parametrize(
    ("last", "wrong"),
    [
        ("{level: low}", None),
        ("{level: lo}", 'unknown level "lo"'),
        ("{includes: [label0]}", "include each other in a circle: label0 -> label1 -> "),
    ],
)
def test_long_chains_of_labels(last: str, wrong: str | None) -> None:
    """No recursion, and no work twice: 20,000 labels that each include the next."""
    chain = "".join(f"    label{number}: {{includes: [label{number + 1}]}}\n" for number in range(20_000))
    text = VALID.replace("  named:\n", f"  named:\n{chain}    label20000: {last}\n")
    if wrong is None:
        parse(text.encode())
        return
    with pytest.raises(DeclarationError) as caught:
        parse(text.encode())
    errors = [problem.wrong for problem in caught.value.problems if problem.severity is Severity.ERROR]
    assert len(errors) == 1
    assert wrong in errors[0]


def test_places_point_into_the_file() -> None:
    source = parse(VALID.encode(), "f.yaml").source
    lines = VALID.splitlines()
    for path, text in [
        (("shares", "inbox", "access", "board"), "board: [read, write]"),
        (("flows", 1, "to"), "to: board, service: udp/514"),
        (("users", "bert", "communities", "board"), "board: {local_uid"),
        (("labels", "named", "top"), "top: {includes"),
        (("communities", "board", "no-such-key"), "board:"),
    ]:
        place = source.at(path)
        assert lines[place.line - 1][place.column - 1 :].startswith(text)
        assert str(place) == f"f.yaml:{place.line}"
