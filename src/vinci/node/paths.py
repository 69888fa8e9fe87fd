# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a node's files lie: one folder a node below the state directory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vinci.settings import read_settings

NAMESPACES = Path("/run/netns")
"""Where named network namespaces are mounted (ip-netns(8))."""


def state_directory() -> Path:
    """The state directory. Raises SettingsError."""
    return read_settings().state


def images_directory() -> Path:
    """The cache of guest images. Raises SettingsError."""
    return read_settings().images


@dataclass(frozen=True, slots=True)
class NodePaths:
    """The files of one node's agent."""

    state: Path
    node: str

    @property
    def root(self) -> Path:
        """The node's folder."""
        return self.state / self.node

    @property
    def namespace(self) -> str:
        """The node's network namespace: the state directory's digest keeps two installations apart."""
        digest = hashlib.sha256(str(self.state).encode()).hexdigest()[:6]
        return f"vinci-{self.node}-{digest}"

    @property
    def may_run(self) -> bool:
        """Whether something of the node may run here, also without its agent: its namespace is taken away last."""
        return (NAMESPACES / self.namespace).exists()

    @property
    def api_socket(self) -> Path:
        """The agent's Unix socket."""
        return self.root / "agent.sock"

    @property
    def lock(self) -> Path:
        """Held by the running agent: there is never a second one."""
        return self.root / "agent.lock"

    @property
    def log(self) -> Path:
        """What the agent prints."""
        return self.root / "agent.log"

    @property
    def database(self) -> Path:
        """The durable state."""
        return self.root / "node.db"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.root / "audit.jsonl"

    @property
    def libvirt(self) -> Path:
        """The root of the embedded libvirt."""
        return self.root / "libvirt"

    @property
    def disks(self) -> Path:
        """Persistent disks of VMs."""
        return self.root / "disks"

    def boot(self, vm: str) -> Path:
        """The folder of the files that a VM gets through fw_cfg."""
        return self.root / "boot" / vm

    @property
    def sockets(self) -> Path:
        """The VMs' folders of sockets, each of which belongs to its VM's user."""
        return self.root / "s"

    def ssh_socket(self, vm: str) -> Path:
        """The socket of a VM's control channel."""
        return self.sockets / vm / "ssh"

    def console_socket(self, vm: str) -> Path:
        """The socket of a VM's serial console."""
        return self.sockets / vm / "con"
