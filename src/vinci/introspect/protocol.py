# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent and its checker say to each other: one line of JSON each way, over a Unix stream socket.

The agent asks, the checker answers, one look at a time. A request for a VM that the checker does not know yet comes
with its RAM file, opened read-only, as ancillary data (SCM_RIGHTS, unix(7)). The checker has read hostile memory: what
it answers is validated in `vinci.node.introspection.answers`.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from vinci.introspect.findings import CheckResult, Finding, Severity

MAX_REQUEST = 1024 * 1024
"""Bytes of a line; the registers of a processor take 3 KiB."""
MAX_ANSWER = 256 * 1024
MAX_FINDINGS = 40
"""Of one check; those beyond are only counted."""
MAX_TEXT = 300
"""Characters of one text."""


@lru_cache(maxsize=64)
def packed(policy: bytes) -> str:
    """A binary policy as text of a tenth of its size."""
    return base64.b64encode(zlib.compress(policy)).decode()


def unpacked(text: str) -> bytes:
    """What `packed` was given; from the agent, which is trusted."""
    return zlib.decompress(base64.b64decode(text))


@dataclass(frozen=True, slots=True)
class Request:
    """Look at a VM now.

    `instance` names one life of a VM: the same VM with another instance was started anew. `running` are all instances
    that still run; the checker lets go of the memory of every other.
    """

    vm: str
    instance: str
    kind: str
    """The value of its `VmKind`: which programs may run there."""
    registers: str
    """QEMU's answer to `info registers -a`."""
    running: tuple[str, ...]
    mtree: str | None = None
    """QEMU's answer to `info mtree -f`; there when the RAM file comes along."""
    policies: tuple[str, ...] = ()
    """The SELinux policies that may be in force in it (`packed`); none when it has none, or none is known."""
    ethertypes: tuple[int, ...] = ()
    """Those that are declared for it: its programs may have packet sockets for them."""
    waited: float = 0.0
    """Seconds for which the machine let one of its processors wait so far: in these it did not go on."""

    def encode(self) -> bytes:
        """As one line."""
        return json.dumps(_members(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Request:
        """From the agent, which is trusted. Raises ValueError, TypeError."""
        values = json.loads(line)
        return cls(**{**values, **{name: tuple(values[name]) for name in ("running", "policies", "ethertypes")}})


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a look: a row for each check, or why the VM's memory or processors cannot be read."""

    vm: str
    instance: str
    milliseconds: float
    results: tuple[CheckResult, ...] = ()
    unreachable: str = ""

    def encode(self) -> bytes:
        """As one line within MAX_ANSWER. What has to be left out is told, and no verdict depends on it."""
        most = MAX_FINDINGS
        while len(line := self._line(most)) > MAX_ANSWER:
            most //= 2
        return line

    def _line(self, most: int) -> bytes:
        results = [_bounded(result, most) for result in self.results]
        line = {**_members(self), "results": results, "unreachable": self.unreachable[:MAX_TEXT]}
        return json.dumps(line, allow_nan=False).encode() + b"\n"


def _bounded(result: CheckResult, most: int) -> dict[str, Any]:
    """With at most `most` findings, the grave ones first, and one more that counts the rest."""
    ordered = sorted(result.findings, key=lambda finding: finding.severity is not Severity.TAMPERED)
    kept = [{**_members(f), "what": f.what[:MAX_TEXT], "where": f.where[:MAX_TEXT]} for f in ordered[:most]]
    if rest := ordered[most:]:
        kept.append(_members(Finding(result.check, f"{len(rest)} more findings", "", rest[0].severity)))
    error = None if result.error is None else result.error[:MAX_TEXT]
    return {**_members(result), "findings": kept, "error": error}


def _members(of: Request | Answer | CheckResult | Finding) -> dict[str, Any]:
    """The members as they are: each look is told in such, and a deep copy (`asdict`) takes many times as long."""
    return {field.name: getattr(of, field.name) for field in fields(of)}
