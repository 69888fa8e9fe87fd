# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may do what with which share, measured from the clients."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
import scenario
from scenario import SESSIONS, SHARES
from service import Running, Service, may_mount

VERSIONS = ("4.2", "3")
OPERATIONS = ("read", "list", "execute", "write", "create", "append")


def operations(client: str, share: str) -> set[str]:
    """What a user of that client may do, said once more in plain words (d1 is anna's)."""
    allowed: dict[tuple[str, str], str] = {
        ("d1", "prescriptions"): "read list write create append",
        ("d2", "prescriptions"): "read list write create append",
        ("n1", "prescriptions"): "read list",
        ("d1", "billing"): "append",
        ("d2", "billing"): "append",
        ("a1", "billing"): "read list",
        ("d1", "journal"): "read list append",
        ("d2", "journal"): "read list append",
        ("n1", "journal"): "read list",
        ("n1", "mixed"): "read list write create append",
        ("d1", "mixed"): "append",
        ("d2", "mixed"): "append",
        ("d1", "project"): "read list write create append",
        ("n1", "project"): "read list",
        ("d1", "tools"): "read list write create append",
        ("n1", "tools"): "read list execute",
        # information may pass upwards
        ("d1", "readup"): "append",
        ("d2", "readup"): "append",
        ("a1", "readup"): "read list write create append",
        ("d1", "writedown"): "read list",
        ("d2", "writedown"): "read list",
        ("a1", "writedown"): "read list",
        ("d1", "downgraded"): "read list",
        ("d2", "downgraded"): "read list",
        ("a1", "downgraded"): "read list write create append",
    }
    return set(allowed.get((client, share), "").split())


@pytest.mark.parametrize("version", VERSIONS)
def test_everybody_can_do_what_is_granted_and_nothing_else(running: Running, service: Service, version: str) -> None:
    """The whole matrix: each user, each share that his VM may mount, each operation; labels override grants."""

    async def measure() -> dict[str, str]:
        top = await service.mount(version)
        lines = {}
        for s in SESSIONS:
            names = [one.name for one in SHARES if may_mount(one, s.client) and not one.name.startswith("homes")]
            trees = " ".join(f"{top}/{s.client}/{name}" for name in names)
            said = await service.client_ok(f"try_all {s.client} {s.local_uid} '{' '.join(OPERATIONS)}' {trees}", 300)
            for line in said.splitlines():
                path, operation, status = line.split()
                lines[f"{s.client} {s.user} {path.rpartition('/')[2]} {operation}"] = status
        return lines

    measured = running(measure())
    wrong = []
    for key, status in measured.items():
        client, user, name, operation = key.split()
        expected = operations(client, name)
        if (user, name) == ("bruno", "project") or (user, name) == ("bruno", "tools"):
            expected = set()
        if (operation in expected) != (status == "0"):
            wrong.append(f"{key}: {'done' if status == '0' else 'refused'}")
    assert len(measured) > 150
    assert wrong == []


def test_a_share_of_an_incomparable_label_cannot_even_be_mounted(running: Running, service: Service) -> None:
    """A grant that no validated file can hold; the constraint refuses the first look at it."""
    status, _ = running(service.client("mount_share d1 10.20.1.2 4.2 sideways sync /m/sideways"))
    assert status != 0
    event = running(service.events())[-1]
    assert (event["share"], event["uid"], event["permissions"]) == ("sideways", 0, "getattr")


def test_a_home_is_its_owners_alone(running: Running, service: Service) -> None:
    """Same community, same label, same type: the file's mode decides, under global UIDs."""

    async def measure() -> list[str]:
        top = await service.mount("4.2")
        script = (
            f"as d1 20001 cat {top}/d1/homes-doctors/anna/secret; "
            f"as d2 1001 cat {top}/d2/homes-doctors/anna/secret; echo $?; "
            f"as d2 1001 sh -c 'echo mine >{top}/d2/homes-doctors/bruno/f && stat -c %u {top}/d2/homes-doctors/bruno/f'"
        )
        return (await service.client_ok(script)).splitlines()

    assert running(measure()) == ["secret", "1", "20002"]
    event = next(event for event in running(service.events()) if event["uid"] == 1001)
    assert (event["address"], event["reason"], event["name"]) == ("10.20.1.11", "file mode", "anna")


@pytest.mark.parametrize("version", VERSIONS)
def test_who_reads_a_file_of_a_lower_level_leaves_no_trace_on_it(
    running: Running, service: Service, version: str
) -> None:
    """Its writers see the same times before and after: the time of access would tell them of the reader."""

    async def measure() -> list[str]:
        top = await service.mount(version)
        name = f"prescriptions/read-{version}"
        times = f"as d1 20001 stat -c '%x %y %z' {top}/d1/{name}"
        return (
            await service.client_ok(
                f"as d1 20001 sh -c 'echo text >{top}/d1/{name}'; {times}; sleep 1; "
                f"as n1 20003 cat {top}/n1/{name}; echo 3 >/proc/sys/vm/drop_caches; {times}"
            )
        ).splitlines()

    before, text, after = running(measure())
    assert text == "text"
    assert before == after


@pytest.mark.parametrize(("client", "uid"), [("d1", 20003), ("d1", 1001), ("d1", 12345), ("d1", 0), ("n1", 20001)])
def test_a_uid_that_is_not_logged_in_there_gets_nothing(
    running: Running, service: Service, client: str, uid: int
) -> None:
    """Forged: another community's UID, one logged in on another VM, nobody's, root's."""

    async def measure() -> list[str]:
        top = await service.mount("4.2")
        out = []
        for operation in ("read", "list", "write", "create", "append"):
            status, _ = await service.client(f"try {client} {uid} {operation} {top}/{client}/prescriptions")
            out.append(f"{operation} {status}")
        return out

    assert running(measure()) == ["read 1", "list 1", "write 1", "create 1", "append 1"]


def test_a_stolen_handle_opens_nothing(running: Running, service: Service) -> None:
    """Handles taken by anna, replayed from other addresses and as other UIDs over NFSv3."""

    async def handle(*names: str) -> str:
        current = (await service.raw("d1", 20001, "mount", "/srv/" + names[0])).split()[1]
        for name in names[1:]:
            current = (await service.raw("d1", 20001, "lookup", current, name)).split()[1]
        return current

    async def measure() -> dict[str, str]:
        secret = await handle("homes-doctors", "anna", "secret")
        file, tree = await handle("prescriptions", "file"), await handle("prescriptions")
        results = {"anna reads": await service.raw("d1", 20001, "read", secret)}
        for client, uid in itertools.product(("d2", "n1", "a1"), (0, 1001, 20001, 20003, 20004, 20002)):
            results[f"{client} {uid} reads a home"] = await service.raw(client, uid, "read", secret)
        for uid in (0, 20001, 20003):
            results[f"n1 {uid} writes"] = await service.raw("n1", uid, "write", file)
            results[f"n1 {uid} removes"] = await service.raw("n1", uid, "remove", tree, "file")
        results["d1 root reads"] = await service.raw("d1", 0, "read", file)
        results["d1 root writes"] = await service.raw("d1", 0, "write", file)
        return results

    results = running(measure())
    assert results.pop("anna reads") == "0"
    assert set(results.values()) <= {"13", "1"}, results  # NFS3ERR_ACCES, NFS3ERR_PERM


@pytest.mark.parametrize(("mode", "share"), [("read", "prescriptions"), ("append", "journal")])
@pytest.mark.parametrize("way", ["log out", "policy"])
def test_taking_rights_away_counts_on_an_open_file(
    running: Running, service: Service, tmp_path: Path, mode: str, share: str, way: str
) -> None:
    """The file stays open; the next request on it is refused; given back, it goes on."""
    user = "n1 20003" if mode == "read" else "d1 20001"
    community = "nurses" if mode == "read" else "doctors"

    async def measure() -> list[str]:
        top = await service.mount("4.2")
        path = f"{top}/{user.split()[0]}/{share}/file"
        process = await service.clients.channel.process(
            f". /run/t/client.sh; as {user} python3 /run/t/hold.py {path} {mode}"
        )
        said: list[str] = []

        async def step() -> None:
            process.stdin.write(b"go\n")
            said.append((await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip())

        said.append((await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip())
        await step()
        try:
            if way == "policy":
                taken = scenario.policy(tmp_path, scenario.without(share, community))
                await service.fs.ok("/usr/lib/vinci/fs-policy", taken)
            else:
                await service.grant(tuple(s for s in SESSIONS if s.client != user.split()[0]))
            await step()
        finally:
            await service.fs.ok("/usr/lib/vinci/fs-policy", scenario.policy(tmp_path))
            await service.grant()
        await step()
        process.stdin.write_eof()
        await process.wait_closed()
        return said

    assert running(measure()) == ["open", "done", "refused 13", "done"]
