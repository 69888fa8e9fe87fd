# SPDX-License-Identifier: GPL-2.0-or-later
"""pymodbus inside of VMs: a field device that tells what reaches it, and clients, honest and other."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import socket
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway_attacks import HOLD
from installation import ROOT, Installation

HOME = "/opt/modbus"
LOG = "/run/plc.log"

# Connects anew for each case, sends its pieces one by one, an empty one being to wait for an answer; tells what came
# back: hexadecimal, `closed` or `silent`.
PIECES = """
import json, socket, sys, time
target, port, cases = sys.argv[1], int(sys.argv[2]), json.load(sys.stdin)
found = []
for pieces in cases:
    got, end = b"", "silent"
    try:
        with socket.create_connection((target, port), 10) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                if piece:
                    client.sendall(bytes.fromhex(piece))
                    time.sleep(0.1)
                else:
                    got += client.recv(4096)
            client.settimeout(3)
            while True:
                more = client.recv(4096)
                if not more:
                    end = "closed"
                    break
                got += more
                client.settimeout(0.5)
    except TimeoutError:
        pass
    except OSError:
        end = "closed"
    found.append(got.hex() or end)
print(json.dumps(found))
"""


def frame(pdu: bytes, unit: int = 1, transaction: int = 7, protocol: int = 0, length: int | None = None) -> bytes:
    """A message of Modbus/TCP, with a header that may be wrong."""
    return struct.pack(">HHHB", transaction, protocol, len(pdu) + 1 if length is None else length, unit) + pdu


def read(address: int = 5, count: int = 1, function: int = 3, unit: int = 1) -> bytes:
    """A request that reads."""
    return frame(struct.pack(">BHH", function, address, count), unit)


WRITE = frame(struct.pack(">BHH", 6, 5, 99))
ANSWER = frame(b"\x03\x02\x00\x05").hex()

SHAPES: dict[str, tuple[list[bytes], str, str | None]] = {
    "a declared read": ([read()], ANSWER, None),
    "one declared read after the other": ([read(), b"", read()], ANSWER * 2, None),
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
"""What is sent in pieces: the answer to it, and the reason in the audit."""


@dataclass(frozen=True)
class Plant:
    """An installation whose field device is up, and a VM from which to ask it."""

    installation: Installation
    device: str
    client: str

    @property
    def address(self) -> str:
        """The device's address."""
        return self.installation.address(self.device)

    def set_up(self, ports: tuple[int, ...] = (502,)) -> None:
        """Put pymodbus into both VMs and start a device at each port; returns when they listen."""
        for vm in {self.device, self.client}:
            _install(self.installation, vm)
        for port in ports:
            log = LOG if port == ports[0] else f"{LOG}.{port}"
            start = f"PYTHONPATH={HOME} nohup python3 {HOME}/plc.py {port} >{log} 2>&1 </dev/null &"
            listens = (
                f"for i in $(seq 240); do ss -tln | grep -q ':{port} ' && exit; sleep 0.25; done; cat {log}; exit 1"
            )
            done = self.installation.root(self.device, f"{start} {listens}")
            assert done.status == 0, done

    def reached(self) -> list[str]:
        """The requests that the device has got so far."""
        log = self.installation.root(self.device, f"cat {LOG}")
        return [line for line in log.out.splitlines() if line.startswith("unit ")]

    def ask(self, expressions: list[str]) -> list[Any]:
        """Evaluate calls of a pymodbus client in the client's VM: registers, or the exception's code."""
        done = self.installation.vinci(
            *("exec", self.client, "--", "env", f"PYTHONPATH={HOME}", "python3", "-", self.address),
            stdin=_CLIENT.replace("CALLS", json.dumps(expressions)),
        )
        assert done.status == 0, done
        answers: list[Any] = json.loads(done.out)
        return answers

    def send(self, cases: list[list[bytes]], target: str | None = None, port: int = 502) -> list[str]:
        """Send each case's pieces over a connection of its own; what came back: hexadecimal, `closed` or `silent`."""
        done = self.installation.vinci(
            *("exec", self.client, "--", "python3", "-c", PIECES, target or self.address, str(port)),
            stdin=json.dumps([[piece.hex() for piece in pieces] for pieces in cases]),
        )
        assert done.status == 0, done
        found: list[str] = json.loads(done.out)
        return found

    def run(self, script: str, *words: str) -> str:
        """Run a Python script as root in the client's VM; its output."""
        done = self.installation.vinci("exec", self.client, "--", "python3", "-", *words, stdin=script)
        assert done.status == 0, done
        return done.out

    def hold(self, request: bytes) -> None:
        """Have the client send a request over a connection that stays open; `held` tells how it went on."""
        asks = f"cat >/run/hold.py; rm -f /run/go /run/held; nohup python3 /run/hold.py {self.address} {request.hex()}"
        started = "for i in $(seq 100); do grep -qs . /run/held && exit; sleep 0.1; done; exit 1"
        script = f"{asks} >/run/held 2>&1 </dev/null & {started}"
        done = self.installation.vinci("exec", self.client, "--", "sh", "-c", script, stdin=HOLD)
        assert done.status == 0, done

    def held(self) -> list[str]:
        """Have the client send it again over the same connection, and end; both answers, or `closed`."""
        two = "for i in $(seq 50); do [ $(wc -l </run/held) = 2 ] && break; sleep 0.1; done"
        return self.installation.root(self.client, f"touch /run/go; {two}; cat /run/held").out.split()

    def ends_at(self, vm: str) -> list[str]:
        """A VM's own ends, ADDRESS:PORT, of its connections to the device."""
        found = []
        for line in self.installation.root(vm, "cat /proc/net/tcp").out.splitlines()[1:]:
            own, other, state = line.split()[1:4]
            if (*_end(other), state) == (self.address, 502, "01"):
                found.append("{}:{}".format(*_end(own)))
        return found

    def messages_of_icmp(self) -> int:
        """How many of them the device has got."""
        names, numbers = self.installation.root(self.device, "grep ^Icmp: /proc/net/snmp").out.splitlines()
        return int(dict(zip(names.split(), numbers.split(), strict=True))["InMsgs"])


def _end(untrusted: str) -> tuple[str, int]:
    """An end as /proc/net/tcp writes it."""
    address, _, port = untrusted.partition(":")
    return socket.inet_ntoa(struct.pack("<I", int(address, 16))), int(port, 16)


_CLIENT = """
import json, sys
from pymodbus.client import ModbusTcpClient
client = ModbusTcpClient(sys.argv[1], timeout=10, retries=0)
assert client.connect()
found = []
for call in CALLS:
    answer = eval("client." + call)
    found.append({"exception": answer.exception_code} if answer.isError() else answer.registers)
print(json.dumps(found))
"""


def _install(installation: Installation, vm: str) -> None:
    spec = importlib.util.find_spec("pymodbus")
    assert spec is not None
    assert spec.origin is not None
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(Path(spec.origin).parent, "pymodbus", filter=_source)
        archive.add(ROOT / "examples" / "plc.py", "plc.py")
    packed = base64.b64encode(stream.getvalue()).decode()
    done = installation.vinci(
        *("exec", vm, "--", "sh", "-c", f"mkdir -p {HOME} && base64 -d | tar -C {HOME} -xz"), stdin=packed
    )
    assert done.status == 0, done


def _source(file: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in file.name else file
