# SPDX-License-Identifier: GPL-2.0-or-later
"""The images boot, are what their manifests say, offer nothing to the network, and their control channel heals itself.

Raw QEMU, no agent: what is tested is the images and what runs in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import subprocess
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncssh
import pytest
from fs_rig.rig import Machine, Rig, Wire

from vinci.images.build import Images, ensure_images, find_images
from vinci.images.manifest import read_manifest, scan
from vinci.node.paths import images_directory

T = TypeVar("T")
APP_CARD = ("02:56:0a:14:01:0a", "10.20.1.10/24")
INNER_CARD = ("02:56:0a:14:01:01", "10.20.1.1/24")
TRANSIT_CARD = ("02:56:0a:ff:00:01", "10.255.0.1/24")
EVENT_SECONDS = 40
DROP_ALL = [
    {"flush": {"ruleset": None}},
    {"add": {"table": {"family": "inet", "name": "t"}}},
    {
        "add": {
            "chain": {
                "family": "inet",
                "table": "t",
                "name": "forward",
                "type": "filter",
                "hook": "forward",
                "prio": 0,
                "policy": "drop",
            }
        }
    },
]


@dataclass
class Bench:
    """A rig and the event loop that its machines' channels live on."""

    loop: asyncio.AbstractEventLoop
    rig: Rig

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(work)

    def sh(self, machine: Machine, script: str) -> str:
        """Output of a script that has to succeed as root in the guest."""
        return self.run(machine.ok(script)).strip()

    def boot(self, name: str, kind: str, *cards: tuple[str, str], **files: bytes) -> Machine:
        """Boot a guest whose cables lead nowhere."""
        wires = [Wire(self.rig.folder / f"{name}{n}", "a", (card,)) for n, card in enumerate(cards)]
        return self.run(self.rig.boot(name, kind, wires, 192, files))


@pytest.fixture(scope="module")
def bench(images: Images) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    rig = Rig(images, Path(tempfile.mkdtemp(prefix="vinci-images-")))
    try:
        yield Bench(loop, rig)
    finally:
        loop.run_until_complete(rig.close())
        loop.close()


@pytest.fixture(scope="module")
def app(bench: Bench) -> Machine:
    return bench.boot("app", "APP", APP_CARD)


@pytest.fixture(scope="module")
def firewall(bench: Bench) -> Machine:
    # the transit card is the first on the bus: order must come from the MAC
    wires = [
        Wire(bench.rig.folder / "fw", "a", (TRANSIT_CARD,)),
        Wire(bench.rig.folder / "fx", "a", (INNER_CARD,)),
    ]
    nics = f"{INNER_CARD[0]},{INNER_CARD[1]} {TRANSIT_CARD[0]},{TRANSIT_CARD[1]}"
    env = f'VINCI_KIND=FW\nVINCI_HOSTNAME=fw\nVINCI_NICS="{nics}"\nVINCI_ROUTES="10.20.2.0/24,10.255.0.2"\n'
    rules = json.dumps({"nftables": DROP_ALL}).encode()
    return bench.run(bench.rig.boot("fw", "FW", wires, 128, {"env": env.encode(), "rules": rules}))


def test_cached_images_are_used_again(images: Images) -> None:
    before = images.app_root.stat().st_mtime_ns
    assert ensure_images(images_directory()) == images
    assert find_images(images_directory()) == images
    assert images.app_root.stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["app", "service"])
def test_manifest_says_what_the_image_holds(images: Images, kind: str, tmp_path: Path) -> None:
    image = images.app_root if kind == "app" else images.service_root
    manifest = read_manifest(images.app_manifest if kind == "app" else images.service_manifest)
    subprocess.run(["fsck.erofs", f"--extract={tmp_path / 'x'}", str(image)], check=True, capture_output=True)
    assert {file.path: file for file in scan(tmp_path / "x")} == manifest
    assert len(manifest) > 500


@pytest.mark.parametrize("kind", ["app", "service"])
def test_no_program_gives_its_owners_rights(images: Images, kind: str) -> None:
    manifest = read_manifest(images.app_manifest if kind == "app" else images.service_manifest)
    assert [file.path for file in manifest.values() if file.mode & 0o6000] == []


def test_no_program_gives_capabilities(bench: Bench, app: Machine) -> None:
    look = "import os; print([p for d, _, n in os.walk('/usr') for p in (os.path.join(d, f) for f in n)"
    look += " if not os.path.islink(p) and 'security.capability' in os.listxattr(p)])"
    assert bench.sh(app, f'python3 -c "{look}"') == "[]"


def test_every_module_of_the_images_is_kept_for_the_profile(images: Images) -> None:
    kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in images.modules.glob("*.ko")}
    assert len(kept) > 20
    assert (images.modules / "vinci_nfsd.ko").exists()
    for path in (images.app_manifest, images.service_manifest):
        modules = [file for name, file in read_manifest(path).items() if name.endswith(".ko")]
        names = {Path(file.path).name for file in modules}
        assert names <= {path.name for path in images.modules.glob("*.ko")}


def test_an_app_vm_is_up(bench: Bench, app: Machine) -> None:
    assert bench.sh(app, "cat /run/vinci/status") == "ok"
    assert bench.sh(app, "hostname") == "app"
    assert APP_CARD[1] in bench.sh(app, "ip -4 -br addr show eth0")
    assert bench.sh(app, "python3 -c 'import json, socket, struct; print(json.dumps(1))'") == "1"


def test_a_firewall_is_up_with_its_cards_in_order(bench: Bench, firewall: Machine) -> None:
    assert bench.sh(firewall, "cat /run/vinci/status") == "ok"
    assert INNER_CARD[1] in bench.sh(firewall, "ip -4 -br addr show eth0")
    assert TRANSIT_CARD[1] in bench.sh(firewall, "ip -4 -br addr show eth1")
    assert bench.sh(firewall, "ip route show 10.20.2.0/24") == "10.20.2.0/24 via 10.255.0.2 dev eth1"
    assert bench.sh(firewall, "cat /proc/sys/net/ipv4/ip_forward") == "1"
    assert "policy drop" in bench.sh(firewall, "nft list ruleset")


@pytest.mark.parametrize("guest", ["app", "firewall"])
def test_nothing_listens(bench: Bench, guest: str, request: pytest.FixtureRequest) -> None:
    machine = request.getfixturevalue(guest)
    assert bench.sh(machine, "ss -H -l -t -u -w -n") == ""
    # the check sees a listener when there is one
    if guest == "app":
        seen = bench.sh(machine, "nc -l -p 7 & until ss -H -l -t -n | grep ':7 '; do sleep 0.1; done; kill $!")
        assert ":7" in seen


@pytest.mark.parametrize("guest", ["app", "firewall"])
def test_ipv6_is_off(bench: Bench, guest: str, request: pytest.FixtureRequest) -> None:
    machine = request.getfixturevalue(guest)
    assert bench.sh(machine, "ip -6 -br addr show") == ""
    assert bench.sh(machine, "cat /proc/net/if_inet6 2>/dev/null || true") == ""


def test_the_root_disk_is_read_only(bench: Bench, app: Machine, images: Images) -> None:
    before = hashlib.sha256(images.app_root.read_bytes()).hexdigest()
    assert bench.sh(app, "cat /sys/block/vda/ro") == "1"
    bench.sh(app, "echo changed >/usr/bin/true.new && mv /usr/bin/true.new /usr/bin/less && cat /usr/bin/less")
    bench.sh(app, "! dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2>/dev/null")
    assert hashlib.sha256(images.app_root.read_bytes()).hexdigest() == before


def test_broken_rules_leave_a_firewall_closed(bench: Bench) -> None:
    machine = bench.boot("closed", "FW", INNER_CARD, TRANSIT_CARD, rules=b'{"nftables": [{"add": {"table": 1}}]}')
    assert bench.sh(machine, "cat /run/vinci/status").startswith("failed: the firewall's rules do not load")
    assert bench.sh(machine, "cat /proc/sys/net/ipv4/ip_forward") == "0"
    assert "UP" not in bench.sh(machine, "ip -br link show eth0; ip -br link show eth1")


def test_no_disk_is_taken_for_the_root_but_the_one_named_so(bench: Bench) -> None:
    disk = bench.rig.folder / "data"
    with disk.open("wb") as file:
        file.truncate(1 << 20)
    machine = bench.run(bench.rig.boot("two", "APP", [], 192, disk=disk))
    assert (
        bench.sh(machine, "readlink /dev/disk/by-id/virtio-root /dev/disk/by-id/virtio-data") == "../../vda\n../../vdb"
    )


def test_accounts_come_and_go(bench: Bench, app: Machine) -> None:
    row = "account\\tanna\\t20001\\t60000\\tanna\\t/home/anna\\t/bin/bash\\n"
    for _ in range(2):
        bench.sh(app, f"printf '{row}' | /usr/lib/vinci/app-login")
    assert bench.sh(app, "grep -c ^anna: /etc/passwd") == "1"
    session = "/usr/lib/vinci/app-session anna sh -c"
    assert bench.sh(app, f"{session} 'id -u; pwd; touch kept /tmp/left; ls'") == "20001\n/home/anna\nkept"
    assert bench.sh(app, f"{session} 'grep -E \"CapEff|CapBnd\" /proc/self/status | cut -f2 | uniq'") == "0" * 16
    # a program that ignores every signal it may, in a session of its own
    bench.sh(app, f"{session} \"trap '' HUP TERM INT; setsid sleep 1000 >/dev/null 2>&1 &\"")
    assert bench.sh(app, "pgrep -U 20001 -c") != "0"
    bench.sh(
        app, f"/usr/lib/vinci/app-logout anna; timeout {EVENT_SECONDS} sh -c 'while pgrep -U 20001; do sleep 0.1; done'"
    )
    assert bench.sh(app, "ls /tmp") == ""
    assert bench.sh(app, "cat /home/anna/kept; stat -c %a /home/anna") == "700"


def test_users_are_kept_apart(bench: Bench, app: Machine) -> None:
    for name, uid in (("carl", 20002), ("dora", 20003)):
        bench.sh(
            app,
            f"printf 'account\\t{name}\\t{uid}\\t60000\\tx\\t/home/{name}\\t/bin/bash\\n' | /usr/lib/vinci/app-login",
        )
    bench.sh(app, "/usr/lib/vinci/app-session carl sh -c 'setsid sleep 999 >/dev/null 2>&1 & ln -s /etc/shadow /tmp/s'")
    as_dora = "/usr/lib/vinci/app-session dora sh -c"
    assert bench.sh(app, f"{as_dora} 'ps -e -o user= | sort -u'") == "dora"
    assert bench.sh(app, f"{as_dora} 'ls /home/carl 2>&1 || true'").endswith("Permission denied")
    assert "denied" in bench.sh(app, f"{as_dora} 'cat /run/vinci/ssh_host_ed25519_key 2>&1 || true'")
    assert "denied" in bench.sh(app, f"{as_dora} 'ls -l /tmp/s && cat /tmp/s 2>&1 || true'")
    assert "denied" in bench.sh(app, "cat /tmp/s 2>&1 || true")  # root does not follow carl's link either
    assert bench.sh(app, f"{as_dora} 'unshare -U true 2>/dev/null; echo $?'") != "0"
    assert " 0% packet loss" in bench.sh(app, f"{as_dora} 'ping -c 1 127.0.0.1'")
    bench.sh(app, "/usr/lib/vinci/app-logout carl; /usr/lib/vinci/app-logout dora")


def test_a_malformed_table_is_refused(bench: Bench, app: Machine) -> None:
    for table in ("account\\tanna\\n", "mount\\ta:/b\\t/c\\tro\\n", "other\\n"):
        assert bench.run(app.sh(f"printf '{table}' | /usr/lib/vinci/app-login")).status == 3


async def _connect(bench: Bench, name: str, **options: Any) -> asyncssh.SSHClientConnection:
    raw = socket.socket(socket.AF_UNIX)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, str(bench.rig.folder / name / "ssh"))
    try:
        return await asyncio.wait_for(
            asyncssh.connect(
                name, sock=raw, config=None, known_hosts=None, **{"username": "root", "agent_path": None, **options}
            ),
            30,
        )
    except BaseException:
        raw.close()
        raise


def test_only_the_key_opens_the_channel(bench: Bench, app: Machine) -> None:
    app.channel.drop()

    async def attempt() -> None:
        for options in (
            {"client_keys": [asyncssh.generate_private_key("ssh-ed25519")]},
            {"client_keys": None, "password": ""},
            {"client_keys": [bench.rig.key], "username": "nobody"},
        ):
            with pytest.raises(asyncssh.PermissionDenied):
                await _connect(bench, "app", **options)
        connection = await _connect(bench, "app", client_keys=[bench.rig.key])
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", 22)
        connection.abort()
        await connection.wait_closed()

    bench.run(attempt())
    assert bench.sh(app, "echo works") == "works"


def test_the_channel_heals_from_cut_connections(bench: Bench, app: Machine) -> None:
    """An agent that is killed at any moment, in the handshake or in the middle of output, finds a working channel."""
    app.channel.drop()

    async def cut(moment: int) -> None:
        raw = socket.socket(socket.AF_UNIX)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, str(bench.rig.folder / "app" / "ssh"))
        raw.send(b"SSH-2.0-cut\r\n"[: moment + 1] if moment < 12 else b"\0" * 70000)
        raw.close()

    async def session() -> None:
        connection = await _connect(bench, "app", client_keys=[bench.rig.key])
        process = await connection.create_process("cat /dev/zero", encoding=None)
        await process.stdout.read(100000)
        connection.abort()
        await connection.wait_closed()

    for moment in range(0, 15, 2):
        bench.run(cut(moment))
        assert bench.sh(app, f"echo {moment}") == str(moment)
        app.channel.drop()
    for _ in range(5):
        with contextlib.suppress(asyncssh.Error, OSError, TimeoutError):
            bench.run(session())
        assert bench.sh(app, "echo works") == "works"
        app.channel.drop()


def test_what_a_dead_connection_ran_is_hung_up(bench: Bench, app: Machine) -> None:
    """At once, not at the next connection: seen on the console. What asked to go on (nohup) goes on."""
    app.channel.drop()
    # its standard error is gone too by then, and dash has something to say of its sleep's end: SIGPIPE
    tell = "exec 2>/dev/null; trap 'echo \\<1\\>was hung up >/dev/kmsg; exit' HUP; : >/run/trapped; "
    tell += "while :; do sleep 0.1; done"

    async def leave() -> None:
        connection = await _connect(bench, "app", client_keys=[bench.rig.key])
        shell = await connection.create_process("bash", term_type="xterm", encoding=None)
        shell.stdin.write(b"sleep 4001\n")
        await connection.create_process(f'sh -c "{tell}"', encoding=None)
        await connection.create_process("nohup sleep 4003 >/dev/null 2>&1 & sleep 4002; true", encoding=None)
        await connection.run("until [ -e /run/trapped ]; do sleep 0.1; done")
        while int((await connection.run("pgrep -c -f 'sleep 400[123]$'")).stdout) < 3:
            await asyncio.sleep(0.1)
        connection.abort()
        await connection.wait_closed()
        async with asyncio.timeout(EVENT_SECONDS):
            while "was hung up" not in app.console.read_text(errors="replace"):
                await asyncio.sleep(0.1)

    bench.run(leave())
    bench.sh(app, f"timeout {EVENT_SECONDS} sh -c 'while pgrep -f \"sleep 400[12]\\$\" >/dev/null; do sleep 0.1; done'")
    assert bench.sh(app, "pgrep -c -f 'sleep 4003$'; pkill -f 'sleep 4003$'") == "1"
