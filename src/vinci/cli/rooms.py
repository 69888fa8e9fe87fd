# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands, and the room (module) of each. A room is loaded when one of its commands is used, and not before.

Those about the declaration need the model, the policy and the plan, which take longer to load than `vinci status` runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS: Mapping[str, tuple[str, str]] = {
    "check": ("declare", "Validate, compile, prove the flows and test what the file expects."),
    "plan": ("declare", "Show what `up` would change, as flows and as machines."),
    "schema": ("declare", "Print the JSON Schema of the infrastructure file, for editors."),
    "up": ("declare", "Make the infrastructure what the file says."),
    "down": ("declare", "Stop every VM and remove the networks."),
    "flows": ("reason", "Who can pass information to whom and how, and whether every way down is explained."),
    "explain": (
        "reason",
        "Why something is allowed or denied: which rule at which place, label by label, with the lines of the file.",
    ),
    "status": ("observe", "Communities, labels, VMs, shares and flows: what is declared and what runs."),
    "verify": ("observe", "Try from inside the VMs whether what is enforced is what was declared."),
    "audit": ("observe", "Denied packets, file accesses and logins, and every change: what happened and why."),
    "console": ("observe", "The last lines that a VM printed on its serial console."),
    "metrics": ("metrics", "Print VM states, trust, memory, sessions and denials for Prometheus."),
    "inspect": ("inspect", "Look at a VM from outside now: what was checked, what was found."),
    "release": ("inspect", "End a VM's quarantine, stop or alert."),
    "shell": ("shell", "Look into a running VM's kernel with drgn."),
    "login": ("use", "Enter an APP-VM as a user: a shell, or one command."),
    "exec": ("use", "Run a command as root in a VM (for the administrator)."),
    "passwd": ("use", "Set a user's password."),
}
"""The room of each command, and what it does: the first sentence of its own help."""


class Rooms(TyperGroup):
    """All commands, none of them loaded."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: _Command(name, *told) for name, told in COMMANDS.items()}


class _Command(TyperCommand):
    """Stands for a command until it is used."""

    def __init__(self, name: str, room: str, told: str) -> None:
        super().__init__(name, help=told)
        self._room = room

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Where a command begins: the real one takes over."""
        return load(str(self.name), self._room).make_context(info_name, args, parent, **extra)


def load(name: str, room: str) -> Any:
    """A command itself, with its room."""
    commands = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    import_module(f"vinci.cli.{room}").register(commands)
    return typer.main.get_group(commands).commands[name]
