# SPDX-License-Identifier: GPL-2.0-or-later
"""pymodbus inside of VMs: a field device that tells what reaches it, and clients, honest and other."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installation import ROOT, Installation

HOME = "/opt/modbus"
LOG = "/run/plc.log"

# Connects anew for each case, sends its pieces one by one, tells what came back: hexadecimal, `closed` or `silent`.
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
                client.sendall(bytes.fromhex(piece))
                time.sleep(0.1)
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
