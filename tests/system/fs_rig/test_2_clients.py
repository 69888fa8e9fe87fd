# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client can do to others' by means of NFSv4's state: guessed IDs, share reservations, locks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from service import Running, Service

BAD_SESSION, STALE_CLIENT, ACCES = "10052", "10022", "13"
FOREIGN = "a session or client ID of another client"
READ, DENY_NOTHING, DENY_READ, DENY_WRITE = "1", "0", "1", "2"
LOCK = """
import fcntl, os, sys
path, mode = sys.argv[1:]
flags = {"r": os.O_RDONLY, "rw": os.O_RDWR, "a": os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ra": os.O_RDWR | os.O_APPEND}
file = os.open(path, flags[mode], 0o666)
try:
    fcntl.lockf(file, (fcntl.LOCK_SH if mode == "r" else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    print("locked")
except OSError as error:
    print(error.errno)
"""


async def _client(service: Service, name: str) -> str:
    return (await service.raw4("d1", 20001, "client", name)).removeprefix("0 ")


async def _session(service: Service, name: str) -> tuple[str, str]:
    client = await _client(service, name)
    return client, (await service.raw4("d1", 20001, "create-session", client, "1")).removeprefix("0 ")


async def _sequence(service: Service) -> tuple[str, str]:
    _, session = await _session(service, "sequence")
    return (
        await service.raw4("n1", 20003, "sequence", session, "1"),
        await service.raw4("d1", 20001, "sequence", session, "1"),
    )


async def _cached_reply(service: Service) -> tuple[str, str]:
    """The attacker claims to be the same user: the server's cache of replies compares credentials only."""
    _, session = await _session(service, "cached-reply")
    own = await service.raw4("d1", 20001, "sequence", session, "1")
    return await service.raw4("n1", 20001, "sequence", session, "1"), own


async def _bind_connection(service: Service) -> tuple[str, str]:
    _, session = await _session(service, "bind-connection")
    return (
        await service.raw4("n1", 20003, "bind-connection", session),
        await service.raw4("d1", 20001, "bind-connection", session),
    )


async def _destroy_session(service: Service) -> tuple[str, str]:
    _, session = await _session(service, "destroy-session")
    return (
        await service.raw4("n1", 20003, "destroy-session", session),
        await service.raw4("d1", 20001, "sequence", session, "1"),
    )


async def _create_session(service: Service) -> tuple[str, str]:
    client, _ = await _session(service, "create-session")
    got = await service.raw4("n1", 20003, "create-session", client, "2")
    return got.split()[0], (await service.raw4("d1", 20001, "create-session", client, "2")).split()[0]


async def _destroy_client(service: Service) -> tuple[str, str]:
    client = await _client(service, "destroy-client")
    got = await service.raw4("n1", 20003, "destroy-client", client)
    return got, (await service.raw4("d1", 20001, "create-session", client, "1")).split()[0]


@pytest.mark.parametrize(
    ("attack", "answer", "operation"),
    [
        (_sequence, BAD_SESSION, "SEQUENCE"),
        (_cached_reply, BAD_SESSION, "SEQUENCE"),
        (_bind_connection, BAD_SESSION, "BIND_CONN_TO_SESSION"),
        (_destroy_session, BAD_SESSION, "DESTROY_SESSION"),
        (_create_session, STALE_CLIENT, "CREATE_SESSION"),
        (_destroy_client, STALE_CLIENT, "DESTROY_CLIENTID"),
    ],
)
def test_ids_of_another_client_are_answered_as_if_they_did_not_exist(
    running: Running,
    service: Service,
    attack: Callable[[Service], Awaitable[tuple[str, str]]],
    answer: str,
    operation: str,
) -> None:
    """The attacker's answer; then the owner's own request, which goes on as if nothing had been; the record of it."""

    async def measure() -> tuple[tuple[str, str], list[dict[str, Any]]]:
        return await attack(service), await service.events()

    answers, events = running(measure())
    assert answers == (answer, "0")
    event = next(event for event in events if event["address"] == "10.20.2.10")
    assert (event["operation"], event["reason"]) == (operation, FOREIGN)


def test_an_id_that_was_never_given_is_no_denial(running: Running, service: Service) -> None:
    """As after the FS-VM has started again: its clients ask with IDs of before."""

    async def measure() -> tuple[str, str, list[dict[str, Any]]]:
        return (
            await service.raw4("n1", 20003, "sequence", "00" * 16, "1"),
            await service.raw4("n1", 20003, "destroy-client", "00" * 8),
            await service.events(),
        )

    assert running(measure()) == (BAD_SESSION, STALE_CLIENT, [])


@pytest.mark.parametrize("deny", [DENY_WRITE, DENY_READ])
def test_a_reader_shuts_no_writer_out(running: Running, service: Service, deny: str) -> None:
    """A share reservation is refused, and recorded; the writer of the lower level notices nothing."""

    async def measure() -> tuple[str, str, int, list[dict[str, Any]]]:
        top = await service.mount("4.2")
        directory = (await service.raw("n1", 0, "mount", "/srv/prescriptions")).removeprefix("0 ")
        await service.events()
        reserved = await service.raw4("n1", 20003, "open", directory, "file", READ, deny)
        events = await service.events()
        plain = await service.raw4("n1", 20003, "open", directory, "file", READ, DENY_NOTHING)
        status, _ = await service.client(f'as d1 20001 python3 -c \'open("{top}/d1/prescriptions/file", "r+")\'')
        return reserved, plain, status, events

    reserved, plain, status, events = running(measure())
    assert (reserved, plain, status) == (ACCES, "0", 0)
    assert [(event["operation"], event["reason"]) for event in events] == [
        ("OPEN", "share reservations are not served")
    ]


def test_only_who_may_write_can_lock(running: Running, service: Service) -> None:
    """A lock acts on those who write and tells of theirs: it needs `write`, or both `read` and `append`."""

    async def measure() -> tuple[dict[str, str], list[dict[str, Any]]]:
        top = await service.mount("4.2")
        await service.clients.put("/run/t/lock.py", LOCK.encode())
        cases = {
            "writer": ("d1", 20001, "prescriptions/locked", "rw"),
            "writer reads": ("d1", 20001, "prescriptions/locked", "r"),
            "appender who reads": ("d1", 20001, "journal/file", "ra"),
            "reader above": ("n1", 20003, "prescriptions/locked", "r"),
            "appender below, own file": ("d1", 20001, "mixed/locked", "a"),
        }
        await service.client_ok(f"as d1 20001 touch {top}/d1/prescriptions/locked")
        await service.events()
        said = {}
        for name, (client, uid, path, mode) in cases.items():
            said[name] = await service.client_ok(
                f"as {client} {uid} python3 /run/t/lock.py {top}/{client}/{path} {mode}"
            )
        return said, await service.events()

    said, events = running(measure())
    assert said == {
        "writer": "locked",
        "writer reads": "locked",
        "appender who reads": "locked",
        "reader above": ACCES,
        "appender below, own file": ACCES,
    }
    refused = [(event["uid"], event["operation"], event["name"], event["permissions"]) for event in events]
    assert refused == [(20003, "LOCK", "locked", "append"), (20001, "LOCK", "locked", "read")]
