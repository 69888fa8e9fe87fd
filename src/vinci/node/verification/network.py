# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures every (VM, VM, service) pair: root in one VM tries to reach each address of every other VM.

TCP: an answer of any kind, also a refusal, shows that packets pass; only silence counts as closed. UDP: what arrives
counts, seen at the target, for an answer need not come back where a flow is one-way, nor where something leaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vinci.model.infrastructure import Infrastructure, Protocol
from vinci.node.channel import Channel, ChannelError
from vinci.node.verification.checks import Check, Kind, Measured, yes_if
from vinci.policy.expected import Place, expected_reach

SECONDS = 120.0
ALWAYS_TRIED = {Protocol.TCP: (22, 111, 2049, 20048), Protocol.UDP: (111, 2049)}
"""Ports tried beside those of declared flows: administration, portmapper, files and their mounting."""
LISTENS_SECONDS = 180
"""After which a listener ends by itself, should nobody ask it."""

# Reads a copy of every UDP datagram that comes for this VM, so that no port has to be free. It goes on in the
# background once it listens; at its end it leaves lines of SOURCE DESTINATION PORT.
_LISTEN = r"""
import os, select, signal, socket, sys, time
heard = set()
copies = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
if pid := os.fork():
    with open("/run/vinci/verify.pid", "w") as file: file.write("%d\n" % pid)
    os._exit(0)
os.setsid()
for stream in (0, 1, 2): os.dup2(os.open("/dev/null", os.O_RDWR), stream)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
end = time.monotonic() + SECONDS
try:
    while (left := end - time.monotonic()) > 0 and select.select([copies], [], [], left)[0]:
        packet = copies.recv(2048)
        udp = (packet[0] & 15) * 4
        if packet[udp + 8:] == b"vinci-verify":
            port = int.from_bytes(packet[udp + 2:udp + 4], "big")
            heard.add((socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), port))
finally:
    with open("/run/vinci/verify.new", "w") as file: file.writelines("%s %s %d\n" % each for each in heard)
    os.rename("/run/vinci/verify.new", "/run/vinci/verify.heard")
"""
_COLLECT = r"""
cd /run/vinci; read -r pid <verify.pid && kill "$pid"
for _ in $(seq 100); do [ -e verify.heard ] && break; sleep 0.1; done
cat verify.heard; status=$?
rm -f verify.pid verify.heard
exit $status
"""

# Arguments: seconds to wait, ADDRESS/PORT of each TCP target, `--`, and of each UDP target. Prints
# ADDRESS/PORT<TAB>yes|no for TCP. One fork an attempt and no program started: in an emulated guest dozens of started
# programs would take longer than the time-out.
_SCRIPT = r"""
seconds=$1; shift
folder=$(mktemp -d)
probe() {
  if { : 3<>"/dev/tcp/$1"; } 2>"$folder/$2"; then answer=yes
  else
    read -r text <"$folder/$2"
    case $text in *refused*|*reset*) answer=yes ;; *) answer=no ;; esac
  fi
  printf '%s\t%s\n' "$1" "$answer"
}
count=0
while [ "$1" != -- ]; do
  count=$((count + 1))
  probe "$1" "$count" &
  pids[count]=$! targets[count]=$1
  shift
done
shift
for half in 1 2; do
  for target; do { printf vinci-verify >"/dev/udp/$target"; } 2>/dev/null; done
  sleep $((seconds / 2))
done
for number in "${!pids[@]}"; do
  kill "${pids[number]}" 2>/dev/null && printf '%s\tno\n' "${targets[number]}"
done
rm -rf "$folder"
"""
SILENCE_SECONDS = 6
"""A connection request is repeated after 1 and after 3 seconds (RFC 6298): three unanswered ones are silence."""

T = TypeVar("T")
Ports = Mapping[Protocol, Sequence[int]]
Heard = Collection[tuple[str, str, int]]
"""Source, destination and port of each datagram that came."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of a VM: in whose network it lies, and what the VM is."""

    vm: str
    place: Place
    network: str
    address: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one VM saw: answers to its TCP attempts by ADDRESS/PORT, and datagrams."""

    answers: Mapping[str, str]
    heard: Heard
    mute: str = ""
    """Why it did not try; empty when it did."""
    deaf: str = ""
    """Why it did not hear; empty when it did."""


async def measure_all(
    channels: Mapping[str, Channel], endpoints: Sequence[Endpoint], ports: Ports, tried: Callable[[], None]
) -> dict[str, Measurement]:
    """Try everything from every VM at once; what each saw.

    Args:
        channels: of all VMs, by name.
        endpoints: all addresses of all VMs.
        ports: those to try.
        tried: called after each VM that has tried.
    """

    async def attempt(vm: str) -> dict[str, str]:
        try:
            return await _try(channels[vm], [each for each in endpoints if each.vm != vm], ports)
        finally:
            tried()

    listening = await _each(channels, lambda vm: _listen(channels[vm]))
    answers = await _each(channels, attempt)
    heard = await _each(channels, lambda vm: _collect(channels[vm]))
    return {
        vm: Measurement(
            answers[vm][0] or {}, heard[vm][0] or (), mute=answers[vm][1], deaf=listening[vm][1] or heard[vm][1]
        )
        for vm in channels
    }


async def _each(vms: Iterable[str], action: Callable[[str], Awaitable[T]]) -> dict[str, tuple[T | None, str]]:
    """Do it for all VMs at once; the result, or None and why there is none."""

    async def one(vm: str) -> tuple[T | None, str]:
        try:
            return await action(vm), ""
        except ChannelError as error:
            return None, str(error)

    names = list(vms)
    return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))


async def _listen(channel: Channel) -> None:
    """Hear datagrams in a VM from now on.

    Raises:
        ChannelError: the VM did not do it.
    """
    program = _LISTEN.replace("SECONDS", str(LISTENS_SECONDS))
    await channel.check("rm -f /run/vinci/verify.*; exec python3 -SE -", program.encode(), SECONDS)


async def _try(channel: Channel, targets: Sequence[Endpoint], ports: Ports) -> dict[str, str]:
    """Try all targets and ports from one VM: the answers to the TCP attempts.

    Raises:
        ChannelError: the VM did not answer.
    """
    tcp, udp = (
        " ".join(f"{target.address}/{port}" for target in targets for port in ports[protocol])
        for protocol in (Protocol.TCP, Protocol.UDP)
    )
    result = await channel.check(f"bash -s {SILENCE_SECONDS} {tcp} -- {udp}", _SCRIPT.encode(), SECONDS)
    lines = result.text.splitlines()[:100_000]
    return dict(line.split("\t") for line in lines if line.count("\t") == 1)  # untrusted: only yes and no count


async def _collect(channel: Channel) -> Heard:
    """End hearing in a VM; what was heard.

    Raises:
        ChannelError: the VM did not answer.
    """
    untrusted = (await channel.check("bash -s", _COLLECT.encode(), SECONDS)).text
    words = [line.split(" ") for line in untrusted.splitlines()[:100_000]]
    return {(each[0], each[1], int(each[2])) for each in words if len(each) == 3 and each[2].isdecimal()}


def reach_checks(
    infrastructure: Infrastructure,
    sources: Sequence[Endpoint],
    targets: Sequence[Endpoint],
    ports: Ports,
    measured: Mapping[str, Measurement],
) -> list[Check]:
    """What was measured beside what is declared.

    Args:
        sources: the addresses of one VM.
        targets: all addresses that it tried.
        ports: those that it tried.
        measured: what each VM saw.
    """
    return [
        Check(
            kind=Kind.NETWORK,
            subject=sources[0].vm,
            target=f"{target.vm} ({target.address})",
            action=f"{protocol}/{port}",
            expected=yes_if(
                expected_reach(infrastructure, sources[0].place, target.place, target.network, protocol, port)
            ),
            measured=_reached(sources, target, protocol, port, measured),
            reason=measured[sources[0].vm].mute or (measured[target.vm].deaf if protocol is Protocol.UDP else ""),
        )
        for target in targets
        for protocol in ports
        for port in ports[protocol]
    ]


def _reached(
    sources: Sequence[Endpoint],
    target: Endpoint,
    protocol: Protocol,
    port: int,
    measured: Mapping[str, Measurement],
) -> Measured:
    sent, seen = measured[sources[0].vm], measured[target.vm]
    if protocol is Protocol.TCP:
        word = sent.answers.get(f"{target.address}/{port}")
        return Measured(word) if word in (Measured.YES, Measured.NO) else Measured.UNKNOWN
    if sent.mute or seen.deaf:
        return Measured.UNKNOWN
    return yes_if(any((source.address, target.address, port) in seen.heard for source in sources))
