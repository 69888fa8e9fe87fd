# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures every (VM, VM, service) pair: root in one VM tries to connect to each address of every other VM.

An answer of any kind, also a refusal, shows that packets pass; only silence counts as closed.
"""

from __future__ import annotations

from dataclasses import dataclass

from vinci.model.infrastructure import Infrastructure, Protocol
from vinci.node.channel import Channel
from vinci.node.verification.checks import Check, Kind, Measured, yes_if
from vinci.policy.expected import Place, expected_reach

SECONDS = 120.0
ALWAYS_TRIED = (22, 111, 2049)
"""Ports tried beside those of declared flows: administration, portmapper, files."""

# Arguments: seconds to wait, then ADDRESS/PORT of each target. Prints ADDRESS/PORT<TAB>yes|no. One fork an attempt and
# no program started: in an emulated guest dozens of started programs would take longer than the time-out.
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
for target; do
  count=$((count + 1))
  probe "$target" "$count" &
  pids[count]=$! targets[count]=$target
done
sleep "$seconds"
for number in "${!pids[@]}"; do
  kill "${pids[number]}" 2>/dev/null && printf '%s\tno\n' "${targets[number]}"
done
rm -rf "$folder"
"""
SILENCE_SECONDS = 6
"""A connection request is repeated after 1 and after 3 seconds (RFC 6298): three unanswered ones are silence."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of a VM: in whose network it lies, and what the VM is."""

    vm: str
    place: Place
    network: str
    address: str


async def measure_reach(
    infrastructure: Infrastructure, source: Endpoint, targets: list[Endpoint], ports: list[int], channel: Channel
) -> list[Check]:
    """Try all targets and ports from one VM.

    Raises:
        ChannelError: the VM did not answer.
    """
    words = " ".join(f"{target.address}/{port}" for target in targets for port in ports)
    result = await channel.check(f"bash -s {SILENCE_SECONDS} {words}", _SCRIPT.encode(), SECONDS)
    measured = dict(line.split("\t") for line in result.text.splitlines()[:100_000] if line.count("\t") == 1)
    checks = []
    for target in targets:
        for port in ports:
            word = measured.get(f"{target.address}/{port}")
            expected = expected_reach(infrastructure, source.place, target.place, target.network, Protocol.TCP, port)
            checks.append(
                Check(
                    kind=Kind.NETWORK,
                    subject=source.vm,
                    target=f"{target.vm} ({target.address})",
                    action=f"tcp/{port}",
                    expected=yes_if(expected),
                    measured=Measured(word) if word in (Measured.YES, Measured.NO) else Measured.UNKNOWN,
                )
            )
    return checks
