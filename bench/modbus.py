# SPDX-License-Identifier: GPL-2.0-or-later
"""What the Modbus gateway costs: reads of a field device through it, and through a plainly forwarded flow, in turns.

    sudo .venv/bin/python bench/modbus.py [ROUNDS]

The utility company of the examples with two more flows, to the same device at other ports and without inspection. One
is forwarded. The other is led, in place of a gateway, to a relay that judges nothing: ten lines of Python as root,
whose packets the FW-VM's rules accept unseen. What it costs is the way through a process.
In each round a client in the same VM sends the same requests all three ways in turn; one connection, four, eight.
The device is the simulated one of examples/plc.py (pymodbus) and, so that the network shows and not the device, a
loop that answers without thinking. The VMs run before other work, so that this shows little.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/system"))
from installation import ROOT, Installation
from modbus_rig import Plant

from vinci.plan.compile import FIRST_GATEWAY

ROUNDS, REQUESTS = 15, 40
CONNECTIONS = (1, 4, 8)
PRIORITY = -15
INSPECTED, PLAIN, RELAYED = 502, 503, 504
WAYS = {PLAIN: "plain forwarding", RELAYED: "a bare relay", INSPECTED: "gateway"}
FLOW = """
  - from: database
    to: scada
    service: tcp/{port}
    upward: true
    trusted: true
    reason: the same without a gateway, to compare with ({port})
"""
RELAY_PORT = 21_000
RELAY_RULES = f"""
table ip bench {{
  chain way {{ type nat hook prerouting priority -100; tcp dport {RELAYED} redirect to :{RELAY_PORT}; }}
}}
insert rule inet vinci input tcp dport {RELAY_PORT} accept
insert rule inet vinci input tcp sport {RELAYED} accept
insert rule inet vinci output tcp dport {RELAYED} accept
insert rule inet vinci output tcp sport {RELAY_PORT} accept
"""
RELAY = f"""
import socket, struct, sys, threading
def serve(client):
    _, port, address = struct.unpack("!HH4s8x", client.getsockopt(socket.SOL_IP, 80, 16))
    device = socket.create_connection((socket.inet_ntoa(address), port))
    for end in (client, device):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while request := client.recv(300):
        device.sendall(request)
        client.sendall(device.recv(300))
listener = socket.create_server(("0.0.0.0", {RELAY_PORT}))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

BACKGROUND = "cat >/run/bench.py; nohup python3 /run/bench.py >/run/bench.log 2>&1 </dev/null &"

DEVICE = """
import os, socket, sys
for port in (502, 503, 504):
    if os.fork() == 0:
        listener = socket.create_server(("0.0.0.0", port))
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while request := client.recv(300):
                    client.sendall(request[:4] + bytes((0, 5)) + request[6:8] + bytes((2, 0, 5)))
                os._exit(0)
            client.close()
"""

CLIENT = """
import json, os, socket, sys, time
address, rounds, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
request = bytes.fromhex("00000006010300050001")  # and a transaction before it, another one each time
def connect(port):
    made = socket.create_connection((address, port), 20)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.settimeout(20)
    made.sendall(bytes(2) + request)
    assert len(made.recv(300)) == 11
    return made
def one(connection):
    took = []
    for transaction in range(number):
        asked = transaction.to_bytes(2, "big") + request
        began = time.perf_counter()
        connection.sendall(asked)
        answer = connection.recv(300)
        took.append(time.perf_counter() - began)
        assert len(answer) == 11 and answer[:2] == asked[:2], answer
    return took
def many(connections):
    start, go = os.pipe()
    children = []
    for connection in connections:
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(start, 1)  # ends when all are there
            one(connection)
            os._exit(0)
        children.append(child)
    time.sleep(0.2)
    began = time.perf_counter()
    os.close(go)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    os.close(start)
    return len(connections) * number / (time.perf_counter() - began)
ways = {port: [connect(port) for _ in range(8)] for port in (502, 503, 504)}
found = []
for count in range(rounds):
    order = (502, 503, 504)[:: 1 if count % 2 else -1]
    times = {port: one(ways[port][0]) for port in order}
    rates = {port: {1: number / sum(times[port])} for port in order}
    for connections in (4, 8):
        for port in order:
            rates[port][connections] = many(ways[port][:connections])
    found.append({port: {"times": times[port], "rates": rates[port]} for port in order})
print(json.dumps(found))
"""


def infrastructure(folder: Path) -> Path:
    """The example with the other flows, and no bound on requests that matters.

    Its communities are only alerted of what a relay in a FW-VM is: a program that does not belong there.
    """
    text = (ROOT / "examples" / "utility.yaml").read_text()
    text = text.replace("rate: 20\n", "rate: 100000\n", 1).replace("response: quarantine", "response: alert")
    text = text.partition("\nexpect:")[0] + "\n"  # one of which is that there are no such flows
    head, tail = text.split("flows:\n", 1)
    path = folder / "utility.yaml"
    path.write_text(f"{head}flows:{''.join(FLOW.format(port=port) for port in (PLAIN, RELAYED))}{tail}")
    return path


def start_relay(installation: Installation, firewall: str) -> None:
    """Put the bare relay in place; returns when it listens."""
    for script, text in (("cat >/run/bench.nft && nft -f /run/bench.nft", RELAY_RULES), (BACKGROUND, RELAY)):
        assert installation.vinci("exec", firewall, "--", "sh", "-c", script, stdin=text).status == 0
    for port in (FIRST_GATEWAY, RELAY_PORT):
        listens = f"for i in $(seq 240); do grep -q :{port:04X} /proc/net/tcp && exit; sleep 0.25; done; exit 1"
        assert installation.root(firewall, listens).status == 0


def measure(plant: Plant, what: str, rounds: int) -> None:
    """Print medians of one device over the rounds: latency over one connection, rates, and each way compared."""
    found = json.loads(plant.run(CLIENT, plant.address, str(rounds), str(REQUESTS)))
    latency = {port: [statistics.median(each[str(port)]["times"]) for each in found] for port in WAYS}
    rates = {
        (port, count): [each[str(port)]["rates"][str(count)] for each in found]
        for port in WAYS
        for count in CONNECTIONS
    }
    print(f"{what}, requests/s over {', '.join(map(str, CONNECTIONS))} connections:")
    for port, name in WAYS.items():
        over = " ".join(f"{statistics.median(rates[port, count]):6.0f}" for count in CONNECTIONS)
        row = f"  {name:17} {statistics.median(latency[port]) * 1000:6.2f} ms median {over}"
        if port != PLAIN:
            added = statistics.median(way - plain for way, plain in zip(latency[port], latency[PLAIN], strict=True))
            kept = (
                statistics.median(w / p for w, p in zip(rates[port, count], rates[PLAIN, count], strict=True))
                for count in CONNECTIONS
            )
            row += f"   adds {added * 1000:5.2f} ms, keeps {' '.join(f'{k:4.2f}' for k in kept)}"
        print(row, flush=True)


def prefer(state: Path) -> None:
    """Have the VMs of an installation run before all other work of usual priority."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end now
            words = (process / "cmdline").read_bytes()
            if b"qemu-system" not in words or str(state).encode() not in words:
                continue
            for thread in (process / "task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), PRIORITY)
            # Where the kernel groups processes by session, only the group's priority counts against others.
            (process / "autogroup").write_text(str(PRIORITY))


def main() -> None:
    """Bring the utility company up, measure with both devices, take it down."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    state = Path(tempfile.mkdtemp(prefix="vinci-b-", dir="/tmp"))
    state.chmod(0o711)
    installation = Installation(state, infrastructure(state))
    try:
        installation.check("up", "--yes", str(installation.file), seconds=600)
        prefer(state)
        print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}")
        plant = Plant(installation, "scada-2", "database-1")
        start_relay(installation, "scada-fw")
        assert installation.vinci("exec", plant.device, "--", "sh", "-c", BACKGROUND, stdin=DEVICE).status == 0
        installation.root(plant.device, "sleep 4")
        measure(plant, "a device that answers at once", rounds)
        installation.root(plant.device, "for p in $(pidof python3); do kill $p; done; sleep 1")
        plant.set_up(ports=tuple(WAYS))
        measure(plant, "the simulated device (pymodbus)", rounds)
        print(f"load {os.getloadavg()[0]:.1f} at the end; {rounds} rounds of {REQUESTS} requests a connection each way")
    finally:
        installation.vinci("down")
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
