# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client can do to the state of another community's client, whose IDs it has guessed: nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from service import Running, Service

BAD_SESSION, STALE_CLIENT = "10052", "10022"
FOREIGN = "a session or client ID of another client"


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
