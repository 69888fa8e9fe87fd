# SPDX-License-Identifier: GPL-2.0-or-later
"""Append-only shares: every line once or refused, nothing stored changes."""

from __future__ import annotations

import pytest
from service import Running, Service

LINES = 100
VERSIONS = ("4.2", "3")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("share", ["billing", "journal"])
def test_appends_from_two_clients_are_stored_once_or_refused(
    running: Running, service: Service, version: str, share: str
) -> None:
    """What a shell reports as written is what is stored, line for line; both appenders get on."""
    file = f"lines-{version}"
    reader = "a1 1001" if share == "billing" else "n1 20003"

    async def measure() -> tuple[list[str], list[str]]:
        top = await service.mount(version)
        await service.client_ok(
            f"appender d1 20001 {top}/d1/{share}/{file} {LINES} /tmp/one & one=$!; "
            f"appender d2 1001 {top}/d2/{share}/{file} {LINES} /tmp/two & wait $one $!; true"
        )
        reported = await service.client_ok("cat /tmp/one /tmp/two")
        stored = await service.client_ok(f"as {reader} cat {top}/{reader.split()[0]}/{share}/{file}")
        return reported.splitlines(), stored.splitlines()

    reported, stored = running(measure())
    assert sorted(stored) == sorted(reported)
    assert len(stored) >= 1.9 * LINES
    for who in ("d1.20001", "d2.1001"):
        numbers = [int(line.split()[1]) for line in stored if line.startswith(who)]
        assert numbers == sorted(numbers)


def test_appends_through_a_cache_are_stored_once_or_refused(running: Running, service: Service) -> None:
    """One open file each, buffered, fsync after each line: what fsync accepted is what is stored."""
    program = (
        "import os,sys\n"
        "f=os.open(sys.argv[1],os.O_WRONLY|os.O_APPEND|os.O_CREAT,0o666)\n"
        "for i in range(100):\n"
        " line=f'{sys.argv[2]} {i}\\n'\n"
        " try:\n  os.write(f,line.encode()); os.fsync(f); print(line,end='')\n"
        " except OSError: pass\n"
    )

    async def measure() -> tuple[list[str], list[str]]:
        top = await service.mount("4.2", "rw")
        await service.clients.put("/run/t/append.py", program.encode())
        reported = await service.client_ok(
            f"as d1 20001 python3 /run/t/append.py {top}/d1/journal/buffered one >/tmp/one & one=$!; "
            f"as d2 1001 python3 /run/t/append.py {top}/d2/journal/buffered two >/tmp/two & wait $one $!; "
            "cat /tmp/one /tmp/two"
        )
        stored = await service.client_ok(f"as n1 20003 cat {top}/n1/journal/buffered")
        return reported.splitlines(), stored.splitlines()

    reported, stored = running(measure())
    assert sorted(stored) == sorted(reported)
    assert len(stored) >= 150


def test_append_only_means_that_nothing_stored_changes(running: Running, service: Service) -> None:
    """Everything else that a client may try on a file that it may append to."""

    async def measure() -> tuple[str, list[str]]:
        top = await service.mount("4.2")
        path = f"{top}/d1/billing"
        await service.client_ok(f"as d1 20001 sh -c 'echo one >>{path}/kept'")
        tries = {
            "truncate": f"truncate -s 0 {path}/kept",
            "overwrite": f"sh -c 'echo two >{path}/kept'",
            "write inside": f"sh -c 'printf X | dd of={path}/kept bs=1 conv=notrunc'",
            "grow": f"truncate -s 100 {path}/kept",
            "punch": f'python3 -c \'import os,ctypes; f=os.open("{path}/kept",1); '
            "e=ctypes.CDLL(None).fallocate(f,3,ctypes.c_long(0),ctypes.c_long(3)); exit(0 if e==0 else 1)'",
            "allocate": f"python3 -c 'import os; os.posix_fallocate(os.open(\"{path}/kept\",1),0,4096)'",
            "remove": f"rm -f {path}/kept",
            "rename": f"mv {path}/kept {path}/other",
            "link": f"ln {path}/kept {path}/other",
            "mode": f"chmod 600 {path}/kept",
            "read": f"cat {path}/kept",
            "directory": f"mkdir {path}/folder",
        }
        done = []
        for name, command in tries.items():
            status, _ = await service.client(f"as d1 20001 {command} >/dev/null 2>&1")
            if status == 0:
                done.append(name)
        return await service.client_ok(f"as a1 1001 cat {top}/a1/billing/kept"), done

    assert running(measure()) == ("one", [])
