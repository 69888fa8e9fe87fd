# SPDX-License-Identifier: GPL-2.0-or-later
"""The hospital's APP-VM that the attacker has taken, and what stands around it."""

from __future__ import annotations

from pathlib import Path

from installation import Installation

HERE = Path(__file__).parent
ATTACKER = "doctors-1"
OWN, FS, GATEWAY = "10.20.1.10", "10.20.1.2", "10.20.1.1"
NURSES, NURSES_FS = "10.20.2.10", "10.20.2.2"


def mac(address: str) -> str:
    return "02:56:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def install(hospital: Installation, source: Path, vm: str = ATTACKER) -> str:
    """Put a program of the attacker's into a VM; its path there."""
    path = f"/root/{source.name}"
    done = hospital.vinci("exec", vm, "--", "sh", "-c", f"cat >{path}", stdin=source.read_text())
    assert done.status == 0, done
    return path


def as_uid(uid: int, command: str) -> str:
    return f"setpriv --reuid {uid} --regid 60000 --clear-groups sh -c '{command}'"
