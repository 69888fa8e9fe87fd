# SPDX-License-Identifier: GPL-2.0-or-later
"""The utility company of the examples, running: inspected flows, a diode, and root in VMs that tries to get past."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import ROOT, Installation
from modbus_rig import Plant

GATEWAY = 20_000
FIREWALL = "scada-fw"


@pytest.fixture(scope="module")
def utility() -> Iterator[Installation]:
    if os.geteuid() != 0:
        pytest.fail("system tests need root: they make network namespaces and start VMs")
    state = Path(tempfile.mkdtemp(prefix="vinci-u-", dir="/tmp"))
    state.chmod(0o711)
    installation = Installation(state, ROOT / "examples" / "utility.yaml")
    try:
        installation.check("up", str(installation.file), seconds=600)
        yield installation
    finally:
        if installation.vinci("down").status == 0:
            shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="module")
def plant(utility: Installation) -> Plant:
    made = Plant(utility, "scada-2", "database-1")
    made.set_up()
    wait_for_gateway(utility)
    return made


def wait_for_gateway(installation: Installation, firewall: str = FIREWALL) -> None:
    """A gateway needs some seconds to start; init keeps it running."""
    listens = f"grep -q :{GATEWAY:04X} /proc/net/tcp"
    done = installation.root(firewall, f"for i in $(seq 240); do {listens} && exit; sleep 0.25; done; exit 1")
    assert done.status == 0, done


def frame(pdu: bytes, unit: int = 1, transaction: int = 7, protocol: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">HHHB", transaction, protocol, len(pdu) + 1 if length is None else length, unit) + pdu


def read(address: int = 5, count: int = 1, function: int = 3, unit: int = 1) -> bytes:
    return frame(struct.pack(">BHH", function, address, count), unit)


WRITE = frame(struct.pack(">BHH", 6, 5, 99))
ANSWER = frame(b"\x03\x02\x00\x05").hex()


def test_verify_measures_what_is_declared(utility: Installation) -> None:
    done = utility.vinci("verify", seconds=600)
    assert done.status == 0, done
    assert "0 mismatches" in done.out or "matches" in done.out


def test_declared_reads_pass(plant: Plant) -> None:
    calls = ["read_holding_registers(5, count=3, device_id=1)", "read_input_registers(1000, count=2, device_id=2)"]
    assert plant.ask(calls) == [[5, 6, 7], [1000, 1001]]
    assert plant.reached()[-2:] == ["unit 1 function 3 address 5", "unit 2 function 4 address 1000"]


def test_no_other_request_reaches_the_device(plant: Plant) -> None:
    before = plant.reached()
    since = plant.installation.next_audit()
    refused = {
        "write_register(5, 99, device_id=1)": 1,
        "write_coil(5, True, device_id=1)": 1,
        "write_registers(5, [1, 2], device_id=1)": 1,
        "write_coils(5, [True] * 9, device_id=1)": 1,
        "mask_write_register(address=5, and_mask=0, or_mask=1, device_id=1)": 1,
        "readwrite_registers(read_address=5, read_count=1, write_address=5, values=[1], device_id=1)": 1,
        "read_coils(5, count=1, device_id=1)": 1,
        "diag_query_data(b'ab', device_id=1)": 1,
        "diag_restart_communication(True, device_id=1)": 1,
        "report_device_id(device_id=1)": 1,
        "read_device_information(device_id=1)": 1,
        "read_holding_registers(100, count=1, device_id=1)": 2,
        "read_holding_registers(99, count=2, device_id=1)": 2,
        "read_holding_registers(5, count=1, device_id=3)": 10,
    }
    assert plant.ask(list(refused)) == [{"exception": code} for code in refused.values()]
    assert plant.reached() == before
    record = plant.installation.wait_for_audit(since, lambda r: r["event"] == "request-denied")
    assert (record["vm"], record["firewall"], record["reason"]) == ("database-1", FIREWALL, "operation-not-declared")
    assert (record["flow"], record["request"]) == ("database -> scada", "unit 1 function 6 address 5 quantity 99")
    assert "gateway: modbus" in "".join(plant.installation.file.read_text().splitlines()[record["line"] - 2 :][:3])
    told = plant.installation.check("explain", "--event", str(record["id"]))
    assert "read-holding-registers" in told


SHAPES: dict[str, tuple[list[bytes], str, str | None]] = {
    "a declared read": ([read()], ANSWER, None),
    "one declared read after the other": ([read(), read()], ANSWER * 2, None),
    "a write": ([WRITE], frame(b"\x86\x01").hex(), "operation-not-declared"),
    "another protocol": ([frame(b"\x03\x00\x05\x00\x01", protocol=1)], "closed", "malformed"),
    "a length of 0": ([frame(b"\x03\x00\x05\x00\x01", length=0)], "closed", "malformed"),
    "a length that is too long": ([frame(b"\x03\x00\x05\x00\x01", length=60_000)], "closed", "oversized"),
    "more than a request may have": ([frame(bytes(400))], "closed", "oversized"),
    "trailing bytes": ([read() + b"\x00"], "closed", "pipelined"),
    "trailing bytes within its length": ([frame(b"\x03\x00\x05\x00\x01\x00")], frame(b"\x83\x03").hex(), "malformed"),
    "two requests in one segment": ([read() + read()], "closed", "pipelined"),
    "a read and a write in one segment": ([read() + WRITE], "closed", "pipelined"),
    "a write inside a read": ([read()[:8] + WRITE + read()[8:]], "closed", "pipelined"),
    "a length that hides a write": ([frame(read()[7:] + WRITE, length=6)], "closed", "pipelined"),
    "half a request": ([read()[:7]], "closed", "fragmented"),
    "one byte": ([b"\x00"], "closed", "fragmented"),
    "a write, byte for byte": ([bytes([byte]) for byte in WRITE], "closed", "fragmented"),
    "HTTP": ([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], "closed", "malformed"),
    "an answer": ([frame(b"\x83\x02")], frame(b"\x83\x01").hex(), "operation-not-declared"),
}


def test_root_with_a_socket_gets_nothing_else_through(plant: Plant) -> None:
    before = plant.reached()
    since = plant.installation.next_audit()
    found = plant.send([pieces for pieces, _answer, _reason in SHAPES.values()])
    assert dict(zip(SHAPES, found, strict=True)) == {name: answer for name, (_, answer, _) in SHAPES.items()}
    assert plant.reached()[len(before) :] == ["unit 1 function 3 address 5"] * 3
    for reason in {reason for _, _, reason in SHAPES.values() if reason}:
        record = plant.installation.wait_for_audit(since, lambda r, why=reason: r.get("reason") == why)
        assert record["event"] == "request-denied"


FRAGMENTS = """
import socket, struct, sys
target, request = sys.argv[1], bytes.fromhex(sys.argv[2])
client = socket.create_connection((target, 502), 10)
own, port = client.getsockname()
client.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR tells the sequence numbers
numbers = []
for queue in (2, 1):  # sent, received
    client.setsockopt(socket.IPPROTO_TCP, 20, queue)
    numbers.append(client.getsockopt(socket.IPPROTO_TCP, 21) & 0xFFFFFFFF)
client.setsockopt(socket.IPPROTO_TCP, 19, 0)
def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
ends = socket.inet_aton(own) + socket.inet_aton(target)
head = lambda check: struct.pack("!HHIIBBHHH", port, 502, *numbers, 5 << 4, 0x18, 502, check, 0)
segment = head(0) + request
segment = head(checksum(ends + struct.pack("!BBH", 0, 6, len(segment)) + segment)) + request
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
answers = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
for start in range(0, len(segment), 8):
    part = segment[start : start + 8]
    more = 0x2000 if start + 8 < len(segment) else 0
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), 4711, more | start // 8, 64, 6, 0) + ends
    raw.sendto(ip + part, (target, 0))
# The client's own kernel does not know of these bytes, and hands over no answer to them.
answers.settimeout(5)
try:
    while True:
        packet = answers.recv(2000)
        if packet[12:16] == socket.inet_aton(target) and packet[22:24] == port.to_bytes(2, "big"):
            said = packet[20 + (packet[32] >> 4) * 4 :]
            if said:
                print(said.hex())
                break
except TimeoutError:
    print("silent")
"""


def test_fragments_of_ip_hide_nothing(plant: Plant) -> None:
    before = plant.reached()
    assert plant.run(FRAGMENTS, plant.address, read().hex()).strip() == ANSWER
    assert plant.run(FRAGMENTS, plant.address, WRITE.hex()).strip() == frame(b"\x86\x01").hex()
    assert plant.reached()[len(before) :] == ["unit 1 function 3 address 5"]


def test_more_requests_than_declared_are_refused(plant: Plant) -> None:
    found = plant.ask(["read_holding_registers(5, count=1, device_id=1)"] * 200)
    assert [5] in found
    assert {"exception": 6} in found


DIRECT = """
import socket, sys
for words in sys.argv[1:]:
    address, port, source = words.split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.settimeout(2)
    try:
        client.bind(("", int(source)))
        client.connect((address, int(port)))
        client.sendall(bytes.fromhex("0007000000060106000500ff"))
        print(client.recv(300).hex() or "closed")
    except OSError:
        print("nothing")
    client.close()
"""


def test_no_way_leads_around_the_gateway(plant: Plant) -> None:
    before = plant.reached()
    inner, outer = (plant.installation.address(FIREWALL, index) for index in (0, 1))
    refused = frame(b"\x86\x01").hex()
    ways = {
        f"{plant.address}:502:502": refused,  # from the service's own port
        f"{plant.address}:502:{GATEWAY}": refused,
        f"{plant.address}:503:0": "nothing",
        f"{plant.address}:{GATEWAY}:0": "nothing",
        f"{outer}:{GATEWAY}:0": "nothing",
        f"{outer}:502:0": "nothing",
        f"{inner}:{GATEWAY}:0": "nothing",
        f"{inner}:502:0": "nothing",
    }
    found = plant.run(DIRECT, *ways).split()
    assert dict(zip(ways, found, strict=True)) == ways
    assert plant.reached() == before


MANY = """
import errno, socket, struct, sys
target, number = sys.argv[1], int(sys.argv[2])
held = []
for count in range(number):
    client = socket.socket()
    client.setblocking(False)
    try:
        client.connect((target, 502))
    except BlockingIOError:
        pass
    held.append(client)
    if len(held) > 900:
        held.pop(0).close()
print(len(held))
"""


def test_ten_thousand_connections_cost_the_gateway_little(plant: Plant) -> None:
    def gateway() -> dict[str, str]:
        status = plant.installation.root(FIREWALL, f"cat /proc/$(cat /run/vinci/gateways/{GATEWAY}.pid)/status").out
        return dict(line.split(":\t", 1) for line in status.splitlines())

    since = plant.installation.next_audit()
    before = gateway()
    plant.run(MANY, plant.address, "10000")
    after = gateway()
    assert after["Pid"] == before["Pid"]
    assert int(after["Threads"]) <= 33
    assert int(after["VmRSS"].split()[0]) < 32_768
    plant.installation.wait_for_audit(since, lambda r: r.get("reason") == "too-many-connections")
    again = f"{read().hex()}"
    for _attempt in range(60):  # until the last half-open connection has timed out
        if plant.send([[bytes.fromhex(again)]]) == [ANSWER]:
            return
    raise AssertionError("nobody is served any more")


def test_a_gateway_that_ends_closes_its_flow_until_init_starts_it_again(plant: Plant) -> None:
    settings = f"/run/vinci/gateways/{GATEWAY}"
    before = plant.reached()
    # Without its settings a gateway ends as soon as it starts.
    plant.installation.root(FIREWALL, f"mv {settings} /run/aside; kill -KILL $(cat {settings}.pid)")
    assert plant.send([[read()]]) == ["closed"]
    assert plant.reached() == before
    plant.installation.root(FIREWALL, f"mv /run/aside {settings}")
    wait_for_gateway(plant.installation)
    assert plant.send([[read()]]) == [ANSWER]


def test_a_gateway_has_no_rights(plant: Plant) -> None:
    script = f"cat /proc/$(cat /run/vinci/gateways/{GATEWAY}.pid)/status"
    status = dict(line.split(":\t", 1) for line in plant.installation.root(FIREWALL, script).out.splitlines())
    assert status["Uid"].split() == [str(GATEWAY)] * 4
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


CONNECTS = """
import socket, sys
for words in sys.argv[1:]:
    address, port = words.split(":")
    client = socket.socket()
    client.settimeout(2)
    try:
        client.connect((address, int(port)))
        print("yes")
    except OSError as error:
        print("no")
"""


def test_whoever_has_taken_a_gateway_reaches_its_targets_and_nobody_else(plant: Plant) -> None:
    files, client = plant.installation.address("files", 1), plant.installation.address("database-1")
    targets = [f"{plant.address}:502", f"{plant.address}:22", f"{files}:2049", f"{client}:502", f"{client}:5140"]
    for user, reached in ((GATEWAY, ["yes", *["no"] * 4]), (0, ["no"] * 5), (GATEWAY + 1, ["no"] * 5)):
        words = ("setpriv", f"--reuid={user}", "--clear-groups", "/usr/bin/python3", "-I", "-S", "-", *targets)
        found = plant.installation.vinci("exec", FIREWALL, "--", *words, stdin=CONNECTS)
        assert found.out.split() == reached, (user, found)


# -- the diode ---------------------------------------------------------------------------------------------------------

LISTEN = """
import socket, sys
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(("0.0.0.0", 5140))
own.settimeout(30)
data, source = own.recvfrom(100)
print(data.decode(), source[0])
for _ in range(20):
    own.sendto(b"back", source)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for kind in (0, 3, 5, 8, 11):
    raw.sendto(bytes([kind, 0]) + (0xFFFF - (kind << 8)).to_bytes(2, "big") + bytes(24), (source[0], 0))
"""
ALARM = """
import socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
raw.settimeout(float(sys.argv[2]))
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(("0.0.0.0", 5141))
own.sendto(b"alarm", (sys.argv[1], 5140))
try:
    while True:
        packet, place = raw.recvfrom(2000)
        if place[2] != 4 and packet[12:16] == socket.inet_aton(sys.argv[1]):  # not our own, from the other side
            print("heard", packet.hex())
except TimeoutError:
    print("silence")
"""


def test_nothing_comes_back_through_the_diode(utility: Installation) -> None:
    """Root on both sides; with a listener, whose answers come back nowhere, and without, whose kernel would object."""
    address = utility.address("database-1")
    since = utility.next_audit()
    for listening in (True, False):
        if listening:
            start = "cat >/run/listen.py; nohup python3 /run/listen.py >/run/listened 2>&1 </dev/null & sleep 3"
            assert utility.vinci("exec", "database-1", "--", "sh", "-c", start, stdin=LISTEN).status == 0
        done = utility.vinci("exec", "scada-1", "--", "python3", "-", address, "5", stdin=ALARM)
        assert done.out.strip() == "silence", done
        if listening:
            assert utility.root("database-1", "cat /run/listened").out.split() == ["alarm", utility.address("scada-1")]
    utility.wait_for_audit(since, lambda r: r["event"] == "flow-denied" and r["firewall"] == "database-fw")


# -- the second gateway ------------------------------------------------------------------------------------------------

SITE = "mkdir -p /run/site/tools && cd /run/site && echo new >news && echo bits >tools/drill && echo no >secret"


def test_http_passes_by_method_and_path(utility: Installation) -> None:
    serve = f"{SITE} && (nohup python3 -m http.server 80 >/run/http.log 2>&1 </dev/null &) ; sleep 6"
    assert utility.root("software-1", serve).status == 0
    wait_for_gateway(utility, "software-fw")
    server = utility.address("software-1")
    since = utility.next_audit()
    cases = {
        f"http://{server}/news": "200 new",
        f"http://{server}/tools/drill": "200 bits",
        f"-I http://{server}/news": "200",
        f"http://{server}/secret": "403",
        f"http://{server}/": "403",
        f"--path-as-is http://{server}/tools/../secret": "400",
        f"--path-as-is http://{server}/tools/%2e%2e/secret": "400",
        f"--path-as-is http://{server}//news": "400",
        f"http://{server}/news?leak=1": "400",
        f"-X PUT -d x http://{server}/news": "405",
        f"-H 'Transfer-Encoding: chunked' -d x http://{server}/news": "400",
        f"-X GET -d x http://{server}/news": "400",
    }
    for words, expected in cases.items():
        ask = f"curl -s --max-time 20 -o /run/body -w '%{{http_code}} ' {words}"
        found = utility.root("scada-1", f"rm -f /run/body; {ask}; cat /run/body").out
        assert found.startswith(expected), (words, found)
    log = utility.root("software-1", "cat /run/http.log").out
    assert "secret" not in log
    assert "PUT" not in log
    record = utility.wait_for_audit(since, lambda r: r["event"] == "request-denied")
    assert (record["firewall"], record["flow"]) == ("software-fw", "scada -> software")


# -- the share of tools ------------------------------------------------------------------------------------------------


def test_the_plant_runs_the_tools_and_cannot_change_them(utility: Installation) -> None:
    tool = "/shares/tools/measure"
    made = utility.login("sven", f"printf '#!/bin/sh\\necho measured\\n' >{tool} && chmod 755 {tool}")
    assert made.status == 0, made
    used = utility.login("oskar", f"{tool}; echo more >>{tool} || echo refused; rm -f {tool} || echo kept; {tool}")
    assert used.out.split() == ["measured", "refused", "kept", "measured"], used
