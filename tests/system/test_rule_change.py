# SPDX-License-Identifier: GPL-2.0-or-later
"""A change reaches every file server and firewall, or none; and what ends goes before anything comes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from installation import Installation, installed

HASH = "$argon2id$v=19$m=19456,t=2,p=1$lThGyg9zkkhLgYitJlW4gQ$SKiSZz2PMmOxHFBixq9h9sAwNwRfj/xScn6GxTuKBuc"
"""Of `vinci-demo`."""
TEXT = """\
vinci: 1
name: two-servers
labels: {{levels: [low]}}
communities:
  office: {{label: {{level: low}}, network: 10.50.1.0/24}}
  guests: {{label: {{level: low}}, network: 10.50.2.0/24}}
users:
  olga: {{uid: 23001, communities: {{office: {{}}}}, password_hash: "{hash}"}}
  gina: {{uid: 23002, communities: {{guests: {{}}}}, password_hash: "{hash}"}}
file_servers: {{first: {{disk_mib: 128}}, second: {{disk_mib: 128}}}}
shares:
  paper:
    {{server: first, label: {{level: low}}, mount: /shares/paper, access: {{office: {paper}}}}}
  glass:
    {{server: second, label: {{level: low}}, mount: /shares/glass, access: {{office: {glass}, guests: [read]}}}}
flows:
  - {{from: office, to: guests, service: {service}}}
nodes: {{n1: {{}}}}
"""
OLD = {"paper": "[read, write]", "glass": "[read]", "service": "https"}
NEW = {"paper": "[read]", "glass": "[read, write]", "service": "ssh"}


@pytest.fixture(scope="module")
def office() -> Iterator[Installation]:
    """Two file servers, two communities, up."""
    with installed() as made:
        declare(made, **OLD)
        made.up()
        yield made


def declare(office: Installation, **chosen: str) -> None:
    office.file.write_text(TEXT.format(hash=HASH, **chosen))


def can(office: Installation, share: str) -> str:
    """What olga can do with a share: `r` or `rw`."""
    script = f"cd /shares/{share} && ls >/dev/null && printf r && {{ (echo x > .t) 2>/dev/null && printf w; :; }}"
    done = office.login("olga", script)
    assert done.status == 0, done
    return done.out


def refuse(office: Installation, server: str, command: str) -> None:
    """Make a guest's command fail from now on, as if the kernel refused what it is given."""
    script = "#!/bin/sh\\ncat >/dev/null; echo refused by the test >&2; exit 3\\n"
    wrong = f"printf '{script}' > /run/wrong && chmod 755 /run/wrong"
    done = office.root(server, f"{wrong} && mount --bind /run/wrong /usr/lib/vinci/{command}")
    assert done.status == 0, done


@pytest.mark.parametrize(
    ("vm", "command"), [("second", "fs-policy"), ("first", "fs-policy"), ("guests-fw", "fw-rules")]
)
def test_rules_that_one_guest_refuses_are_in_force_nowhere(office: Installation, vm: str, command: str) -> None:
    assert (can(office, "paper"), can(office, "glass")) == ("rw", "r")
    since, before = office.next_audit(), office.status()["declaration"]["version"]
    refuse(office, vm, command)
    try:
        declare(office, **NEW)
        done = office.vinci("up", "--yes", str(office.file))
        assert done.status != 0
        assert "those before stay in force" in done.err
        assert "refused by the test" in done.err
        assert office.status()["declaration"]["version"] == before
        assert (can(office, "paper"), can(office, "glass")) == ("rw", "r")
        assert "dport 443" in office.root("office-fw", "nft list ruleset").out
        assert "dport 22" not in office.root("office-fw", "nft list ruleset").out
        records = [record["message"] for record in office.audit(since)]
        assert any("has the rules before again" in message for message in records), records
    finally:
        taken_back = office.root(vm, f"umount -l /usr/lib/vinci/{command}")
    assert taken_back.status == 0


def test_what_ends_is_gone_everywhere_before_anything_comes(office: Installation) -> None:
    since = office.next_audit()
    declare(office, **NEW)
    office.check("up", "--yes", str(office.file))
    records = office.audit(since)
    lost = {record["vm"]: record["id"] for record in records if "lost the rights that end" in record["message"]}
    gained = {record["vm"]: record["id"] for record in records if "got new rules" in record["message"]}
    assert lost.keys() == {"first", "office-fw", "guests-fw"}
    assert gained.keys() == {"second", *lost}
    assert max(lost.values()) < min(gained.values())
    assert (can(office, "paper"), can(office, "glass")) == ("r", "rw")
    assert "nothing changed" in office.check("up", str(office.file))
