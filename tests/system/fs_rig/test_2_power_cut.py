# SPDX-License-Identifier: GPL-2.0-or-later
"""When the FS-VM loses power before it has replied: an append is stored once and done, or not stored and refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from service import Running, Service

MANAGE = "printf %s vinci_u:vinci_system_r:vinci_manage_t:s0 >/proc/self/attr/current"
VERSIONS = ("4.2", "3")
STORED = ("alone", "grown", "same", "moved", "unsent")

# Opens files for appending, waits to be told, then appends a line to each at once, and one more as `>>` does; tells
# what became of it.
HOLDER = """
import concurrent.futures, json, os, sys
who, *paths = sys.argv[1:]
held = {path: os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666) for path in paths}
for descriptor in held.values():
    os.write(descriptor, f"{who} before\\n".encode())
print("ready", flush=True)
sys.stdin.readline()
def append(path):
    done = 0
    try:
        os.write(held[path], b"a line\\n")
        done = 1
        os.close(held[path])
        os.write(os.open(path, os.O_WRONLY | os.O_APPEND), f"{who} after\\n".encode())
        done = 2
    except OSError as error:
        return [done, error.strerror]
    return [done, ""]
with concurrent.futures.ThreadPoolExecutor(len(held)) as pool:
    found = dict(zip(held, pool.map(append, held)))
print(json.dumps({path.rpartition("/")[2]: result for path, result in found.items()}), flush=True)
"""

# Makes a connection to the file service, waits to be told, then goes on with it; tells how that ends.
IDLE = """
import json, socket, sys
connection = socket.create_connection((sys.argv[1], 2049), 60)
print("ready", flush=True)
sys.stdin.readline()
try:
    connection.sendall(bytes(4))
    end = repr(connection.recv(1))
except OSError as error:
    end = type(error).__name__
print(json.dumps(end), flush=True)
"""


class Waiting:
    """A program in the client VM that is ready, waits to be told, and then tells what came of it."""

    def __init__(self, process: Any) -> None:
        self._process = process

    @classmethod
    async def start(cls, service: Service, command: str) -> Waiting:
        """Returns when it is ready."""
        process = await service.clients.channel.process(f". /run/t/client.sh; {command}")
        assert b"ready" in await asyncio.wait_for(process.stdout.readline(), 60)
        return cls(process)

    def go(self) -> None:
        """Tell it."""
        self._process.stdin.write(b"go\n")

    async def told(self) -> Any:
        """What came of it."""
        found = json.loads(await asyncio.wait_for(self._process.stdout.readline(), 180))
        await self._process.wait_closed()
        return found


Told = dict[str, list[Any]]
"""Of each file how many of its two lines a client was told are written, and why not more."""


@dataclass(frozen=True)
class Outcome:
    """What d1 and d2 were told, what is stored, and how n1's connection from before the power cut ended."""

    d1: Told
    d2: Told
    content: dict[str, list[str]]
    connection: str


async def sizes(service: Service, names: list[str]) -> dict[str, int]:
    """Of the journal's files, as they are stored."""
    text = await service.fs.ok(f"{MANAGE}; cd /srv/journal && stat -c '%n %s' {' '.join(names)}")
    return {name: int(size) for name, size in (line.split() for line in text.splitlines())}


async def lose_power(service: Service) -> Outcome:
    """Two clients append to files of the journal, and the power cut comes before their replies.

    d1's lines are stored, those of d2 for the files `unsent` never reach the FS-VM. d2 has appended too: to `moved`
    before d1, whose line so went to another place than it meant; to `grown` after it, and to `same` the very same line.
    """
    # The client has no need to ask for a file's size between the appends: no reply would reach it.
    tops = {version: await service.mount(version, "sync,actimeo=600") for version in VERSIONS}
    names = [f"{name}-{version}" for version in VERSIONS for name in STORED]
    for name, program in (("holder", HOLDER), ("idle", IDLE)):
        await service.clients.put(f"/run/t/{name}.py", program.encode())
    paths = [f"{tops[version]}/d1/journal/{name}-{version}" for version in VERSIONS for name in STORED]
    unsent = [f"{tops[version]}/d2/journal/unsent-{version}" for version in VERSIONS]
    one = await Waiting.start(service, f"as d1 20001 python3 /run/t/holder.py d1 {' '.join(paths)}")
    two = await Waiting.start(service, f"as d2 1001 python3 /run/t/holder.py d2 {' '.join(unsent)}")
    idle = await Waiting.start(service, "as n1 20003 python3 /run/t/idle.py 10.20.2.2")
    other = f"as d2 1001 sh -c 'cd {tops['4.2']}/d2/journal && for version in {' '.join(VERSIONS)}; do"
    await service.client_ok(f"{other} echo d2 before >>moved-$version; done'")
    before = await sizes(service, names)
    # Replies are long. Without TCP's acknowledgements d1 would send no further request once the first is overdue.
    await service.fs.ok("nft insert rule inet vinci_fs output ip daddr 10.20.1.10 ip length gt 100 drop")
    one.go()
    async with asyncio.timeout(60):
        while any(size == before[name] for name, size in (await sizes(service, names)).items()):
            await asyncio.sleep(0.1)
    await service.client_ok(f"{other} echo d2 meanwhile >>grown-$version; echo a line >>same-$version; done'")
    await service.fs.ok(
        "nft insert rule inet vinci_fs output ip daddr 10.20.1.11 drop; "
        "nft insert rule inet vinci_fs input ip saddr 10.20.1.11 drop"
    )
    two.go()
    await service.cut_power()
    idle.go()
    d1, d2, connection = await one.told(), await two.told(), await idle.told()
    content = {
        name: (await service.client_ok(f"as n1 20003 cat {tops['4.2']}/n1/journal/{name}")).splitlines()
        for name in names
    }
    return Outcome(d1, d2, content, connection)


@pytest.fixture(scope="module")
def outcome(running: Running) -> Outcome:
    """One power cut for all tests here; d1 has appended to `mixed`, too, where it left half of a line in `torn`."""
    service = running.service
    running(service.grant())
    top = running(service.mount("4.2"))
    running(service.client_ok(f"as d1 20001 sh -c 'echo of-d1 >>{top}/d1/mixed/rotated'"))
    running(service.client_ok(f"as d1 20001 sh -c 'cd {top}/d1/mixed && echo first >>torn && echo second-line >>torn'"))
    running(service.client_ok(f"as n1 20003 truncate -s 10 {top}/n1/mixed/torn"))
    try:
        found: Outcome = running(lose_power(service))
    except BaseException:
        # The rules that take d1's replies are for no other test.
        running(service.cut_power())
        raise
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_an_append_whose_reply_the_power_cut_took_is_done_and_stored_once(outcome: Outcome, version: str) -> None:
    """The client sends it again: it must neither be stored twice nor refused, whatever others appended since."""
    assert {name: outcome.d1[f"{name}-{version}"] for name in STORED} == {name: [2, ""] for name in STORED}
    stored = {name: outcome.content[f"{name}-{version}"] for name in STORED if name != "unsent"}
    assert stored == {
        "alone": ["d1 before", "a line", "d1 after"],
        "grown": ["d1 before", "a line", "d2 meanwhile", "d1 after"],
        "same": ["d1 before", "a line", "a line", "d1 after"],
        "moved": ["d1 before", "d2 before", "a line", "d1 after"],
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_an_append_that_the_power_cut_prevented_is_not_taken_for_anothers_equal_line(
    outcome: Outcome, version: str
) -> None:
    """d1's line lies where d2 meant to append the same: d2's is stored as well, or refused."""
    done, _error = outcome.d2[f"unsent-{version}"]
    assert sorted(outcome.content[f"unsent-{version}"]) == sorted(
        ["d1 before", "d2 before", "a line", "d1 after", *["a line", "d2 after"][:done]]
    )


def test_a_connection_from_before_the_power_cut_is_ended_at_once(outcome: Outcome) -> None:
    """A client that got no answer at all would wait for minutes before it makes another connection."""
    assert outcome.connection == "ConnectionResetError"


# Writes bytes at a place of a file, past the client's cache; tells whether they are taken.
PLACE = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_DIRECT)
try:
    os.pwrite(descriptor, sys.argv[3].encode(), int(sys.argv[2]))
    print("done")
except OSError as error:
    print(error.strerror)
"""


async def place(service: Service, name: str, offset: int, text: str) -> str:
    """d1 writes there in a file of `mixed`."""
    path = f"{await service.mount('4.2')}/d1/mixed/{name}"
    await service.clients.put("/run/t/place.py", PLACE.encode())
    return await service.client_ok(f"as d1 20001 python3 /run/t/place.py {path} {offset} {text}")


@pytest.mark.usefixtures("outcome")
def test_an_append_of_which_the_disk_has_a_part_is_not_stored_behind_it(running: Running, service: Service) -> None:
    """Where the file does not end with the latest append, the one before is not taken for the latest."""

    async def measure() -> list[str]:
        top = await service.mount("4.2")
        again = await place(service, "torn", 6, "second-line")
        return [again, await service.client_ok(f"as n1 20003 cat {top}/n1/mixed/torn")]

    assert running(measure()) == ["Permission denied", "first\nseco"]


@pytest.mark.usefixtures("outcome")
def test_what_was_an_appenders_own_before_the_power_cut_tells_it_nothing_of_what_stands_there_now(
    running: Running, service: Service
) -> None:
    """Its bytes are known for its own again; then somebody who may write empties the file, and another fills it."""

    async def measure() -> list[str]:
        top = await service.mount("4.2")
        own = [await place(service, "rotated", 0, "of-d1"), await place(service, "rotated", 0, "or-d1")]
        await service.client_ok(f"as n1 20003 sh -c ': >{top}/n1/mixed/rotated'")
        await service.client_ok(f"as d2 1001 sh -c 'echo secret-of-d2 >>{top}/d2/mixed/rotated'")
        guessed = await place(service, "rotated", 1, "e")
        return [*own, guessed, await service.client_ok(f"as n1 20003 cat {top}/n1/mixed/rotated")]

    # The guess is right, and is no repetition all the same: it is appended, as a wrong one would be.
    assert running(measure()) == ["done", "Permission denied", "done", "secret-of-d2\ne"]
