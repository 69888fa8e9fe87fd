# SPDX-License-Identifier: GPL-2.0-or-later
"""The service as a whole: copies, records, broken input, network, power cuts. The last test ends the service."""

from __future__ import annotations

import asyncio
from typing import Any

import scenario
from service import Running, Service


def test_copies_run_as_the_one_who_asked(running: Running, service: Service) -> None:
    """NFSv4.2 COPY: works where reading and writing do, and nowhere else."""

    async def measure() -> tuple[str, int]:
        top = await service.mount("4.2", "rw")
        program = (
            "import os,sys\n"
            "a=os.open(sys.argv[1],os.O_RDONLY); b=os.open(sys.argv[2],os.O_WRONLY|os.O_CREAT,0o666)\n"
            "print(os.copy_file_range(a,b,1<<20))\n"
        )
        await service.clients.put("/run/t/copy.py", program.encode())
        await service.client_ok(f"as d1 20001 sh -c 'head -c 1048576 /dev/urandom >{top}/d1/prescriptions/big'")
        done = await service.client_ok(
            f"as d1 20001 sh -c 'cd {top}/d1/prescriptions; python3 /run/t/copy.py big copy; cmp big copy && echo same'"
        )
        status, _ = await service.client(
            f"as n1 20003 python3 /run/t/copy.py {top}/n1/prescriptions/big {top}/n1/prescriptions/other"
        )
        return done, status

    done, status = running(measure())
    assert done.split() == ["1048576", "same"]
    assert status != 0


def test_a_handle_is_found_again_whoever_was_served_before(running: Running, service: Service) -> None:
    """After the server has forgotten its directories, the way up from a handle is not walked as the last one served."""

    async def measure() -> list[int]:
        top = await service.mount("4.2", "rw")
        await service.client_ok(
            f"as d1 20001 sh -c 'mkdir -p {top}/d1/prescriptions/a/b/c; echo x >{top}/d1/prescriptions/a/b/c/f'"
        )
        statuses = []
        for _ in range(5):
            # carla may not search that tree at all
            await service.client(f"try a1 1001 list {top}/a1/billing")
            await service.fs.ok("sync; echo 3 >/proc/sys/vm/drop_caches")
            await service.client(f"try a1 1001 list {top}/a1/billing")
            status, _ = await service.client(f"as n1 20003 sh -c 'cd {top}/n1/prescriptions/a/b/c && cat f && ls ..'")
            statuses.append(status)
        return statuses

    assert running(measure()) == [0] * 5


def test_a_denied_request_is_recorded_with_who_what_and_where(running: Running, service: Service) -> None:
    """One event for one refused request."""

    async def measure() -> list[dict[str, Any]]:
        top = await service.mount("4.2")
        await service.events()
        await service.client(f"as n1 20003 sh -c 'echo x >{top}/n1/prescriptions/file'")
        await service.client(f"as n1 4711 cat {top}/n1/prescriptions/file")
        return await service.events()

    events = running(measure())
    written = next(event for event in events if event["uid"] == 20003)
    assert written["address"] == "10.20.2.10"
    assert written["operation"] == "OPEN"
    assert written["subject"] == "sally_u:nurses_r:nurses_t:s1:c0,c1"
    assert written["share"] == "prescriptions"
    assert written["name"] == "file"
    assert (written["class"], written["permissions"]) == ("file", "write")
    unknown = next(event for event in events if event["uid"] == 4711)
    assert unknown["reason"] == "no grant for this address and UID"


def test_a_file_that_the_server_knows_by_its_handle_alone_gets_no_name_in_the_record(
    running: Running, service: Service
) -> None:
    """The client still has the file; the server has forgotten it. Its inode says which one it is."""

    async def measure() -> tuple[dict[str, Any], str]:
        top = await service.mount("4.2")
        path = f"{top}/n1/prescriptions/file"
        inode = await service.client_ok(f"as n1 20003 cat {path} >/dev/null; as n1 20003 stat -c %i {path}")
        await service.fs.ok("sync; echo 3 >/proc/sys/vm/drop_caches")
        await service.events()
        await service.client(f"as n1 20003 sh -c 'echo x >{path}'")
        return next(event for event in await service.events() if event["uid"] == 20003), inode

    event, inode = running(measure())
    assert str(event["inode"]) == inode
    assert event.get("name", "file") == "file"


def test_a_flood_of_one_clients_denials_leaves_room_for_the_others(running: Running, service: Service) -> None:
    """More different ones than the ring holds, and nobody reads it: the other client's is recorded, and the loss."""

    async def measure() -> list[dict[str, Any]]:
        handle = (await service.raw("d1", 0, "mount", "/srv/prescriptions")).removeprefix("0 ")
        await service.events()
        await service.raw("d1", 30000, "flood", handle, "1100")
        await service.raw("n1", 4711, "getattr", handle)
        events: list[dict[str, Any]] = []
        while more := await service.events():
            events += more
        return events

    events = running(measure())
    assert [event["uid"] for event in events if event["address"] == "10.20.2.10"] == [4711]
    flood = [event for event in events if event["address"] == "10.20.1.10"]
    assert len(flood) + sum(event["lost"] for event in flood) == 1100
    assert len(flood) >= 500


def test_a_broken_table_or_policy_changes_nothing(running: Running, service: Service) -> None:
    """Refused with one line that says why; what was in force stays."""

    async def measure() -> list[str]:
        top = await service.mount("4.2")
        messages = []
        broken = {
            "fs-grants": [b"10.20.1.10\t20001\n", b"10.20.1.10\t20001\t0\t60000\tx\n", b"x" * 100_000, b"\0\n"],
            "fs-policy": [b"", b"nonsense", scenario.policy(service.rig.folder)[:-500]],
            "fs-shares": [
                b"a\ttree\n",
                b"a\ttree\t/etc\tvinci_u:object_r:vinci_root_t:s0\n",
                b"a\ttree\t/srv/../etc\tvinci_u:object_r:vinci_root_t:s0\n",
                b"a\ttree\t/srv/a\tno:such:context:s0\n",
            ],
        }
        for command, inputs in broken.items():
            for text in inputs:
                result = await service.fs.sh(f"/usr/lib/vinci/{command}", text)
                messages.append(f"{result.status} {result.untrusted_stderr.decode().strip()}")
        status, _ = await service.client(f"try d1 20001 read {top}/d1/prescriptions")
        messages.append(str(status))
        return messages

    *messages, status = running(measure())
    assert status == "0"
    assert [message for message in messages if not message.startswith("3 fs-") or "\n" in message] == []


def test_only_the_two_ports_answer_and_nothing_passes_between_legs(running: Running, service: Service) -> None:
    """From a client: other ports, the server's address on another leg, another leg's client."""

    async def measure() -> list[str]:
        script = (
            "open() { case $2:$3 in 10.20.1.2:2049 | 10.20.1.2:20048) wait=20 ;; *) wait=1 ;; esac; "
            "nsenter --net=/run/netns/$1 nc -z -w $wait $2 $3 2>/dev/null && echo $2 $3; }; "
            "ip -n d1 route add default via 10.20.1.2; "
            "for port in 22 111 2049 20048 40000; do open d1 10.20.1.2 $port; open d1 10.20.2.2 $port; done; "
            "nsenter --net=/run/netns/n1 nc -l -p 7777 >/dev/null & listener=$!; open d1 10.20.2.10 7777; "
            "nsenter --net=/run/netns/d1 ping -c 1 -W 1 10.20.2.10 >/dev/null && echo pinged; kill $listener; "
            "ip -n d1 route del default"
        )
        return (await service.client_ok(script)).splitlines()

    assert running(measure()) == ["10.20.1.2 2049", "10.20.1.2 20048"]


def test_no_client_can_take_the_others_connections(running: Running, service: Service) -> None:
    """So many and no more from one address; closed ones are given back; another client connects all the while."""

    async def measure() -> tuple[int, int, int]:
        attack = asyncio.create_task(service.raw("n1", 0, "connect", "60"))
        await asyncio.sleep(2)
        other = int(await service.raw("d1", 0, "connect", "1"))
        attacker = int(await attack)
        return attacker, other, int(await service.raw("n1", 0, "connect", "5"))

    attacker, other, again = running(measure())
    assert 5 <= attacker <= 16
    assert (other, again) == (1, 5)


def test_power_cut_loses_no_synced_byte_and_clients_go_on(running: Running, service: Service) -> None:
    """The FS-VM dies while a client writes with fsync; it starts again; the client never sees an error."""
    program = (
        "import os,sys\n"
        "f=os.open(sys.argv[1],os.O_WRONLY|os.O_CREAT|os.O_APPEND,0o666)\n"
        "for i in range(200):\n"
        " os.write(f,b'%05d\\n'%i); os.fsync(f); print(i,flush=True)\n"
    )

    async def measure() -> tuple[int, str, str]:
        top = await service.mount("4.2", "rw")
        await service.clients.put("/run/t/sync.py", program.encode())
        path = f"{top}/d1/prescriptions/synced"
        process = await service.clients.channel.process(
            f". /run/t/client.sh; as d1 20001 python3 /run/t/sync.py {path}"
        )
        for _ in range(50):
            await asyncio.wait_for(process.stdout.readline(), 60)
        await service.cut_power()
        async with asyncio.timeout(180):
            while await process.stdout.readline():
                pass
            await process.wait_closed()
        stored = await service.client_ok(f"as n1 20003 cat {top}/n1/prescriptions/synced")
        held = await service.client_ok(f"as d1 20001 cat {path}")
        return process.exit_status or 0, stored, held

    status, stored, held = running(measure())
    assert status == 0
    assert stored.split() == [f"{number:05d}" for number in range(200)]
    assert held == stored


def test_without_the_module_nothing_is_served(running: Running, service: Service) -> None:
    """Last of all: the patch is taken out of the running kernel."""

    async def measure() -> list[int]:
        top = await service.mount("4.2")
        before, _ = await service.client(f"try d1 20001 read {top}/d1/prescriptions")
        await service.fs.ok(
            "echo 0 >/sys/kernel/livepatch/vinci_nfsd/enabled; "
            "while [ -d /sys/kernel/livepatch/vinci_nfsd ]; do sleep 0.1; done"
        )
        await service.client_ok("echo 3 >/proc/sys/vm/drop_caches")
        statuses = [before]
        for operation in ("read", "list", "write", "append"):
            status, _ = await service.client(f"try d1 20001 {operation} {top}/d1/prescriptions")
            statuses.append(status)
        return statuses

    assert running(measure()) == [0, 1, 1, 1, 1]
