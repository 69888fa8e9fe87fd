# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's VMM: libvirt, by default its QEMU driver embedded in the agent's own process (facts/runtime.md).

One process per root and one root per process. All calls block; the agent calls them from a worker thread.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from vinci.vmm.domain import NAMESPACE
from vinci.vmm.instance import Instance, Lives, ProcessorTime

QEMU_USER = "libvirt-qemu"
"""QEMU runs as this unprivileged user: the name that Debian's libvirt is built with and looks up at each start."""

_QEMU_CONF = """\
# Written by the node agent at each start.
user = "{user}"
group = "{group}"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
seccomp_sandbox = 1
memory_backing_dir = "{ram}"
cgroup_controllers = [ {controllers} ]
namespaces = []
"""


class VmmError(Exception):
    """The VMM refused or failed; the text is one sentence."""


class VmState(StrEnum):
    """What the VMM says of a VM."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RunningVm:
    """A VM as the VMM reports it."""

    name: str
    state: VmState
    digest: str
    kind: str
    """The `VmKind` it was started as; empty when it is none of ours."""
    memory_mib: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class VmEvent:
    """A VM changed its state."""

    name: str
    state: VmState
    detail: str


_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: VmState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: VmState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: VmState.PAUSED,
}


def _quiet(_context: object, _error: object) -> None:
    """libvirt prints every error on stderr by itself; ours come as exceptions."""


class VmHost:
    """An open connection to the VMM of this node."""

    def __init__(self, root: Path, uri: str | None, on_event: Callable[[VmEvent], None]) -> None:
        """Open it. `root` holds libvirt's state, `uri` overrides the embedded driver.

        Raises:
            VmmError: libvirt cannot be opened.
        """
        self._on_event = on_event
        pid_files = (root if uri is None else Path("/")) / "run" / ("qemu" if uri is None else "libvirt/qemu")
        self._lives = Lives(pid_files)
        libvirt.registerErrorHandler(_quiet, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True).start()
        write_configuration(root)
        uri = uri or f"qemu:///embed?root={root}"
        try:
            self._connection = libvirt.open(uri)
            self._connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        except libvirt.libvirtError as error:
            raise VmmError(f"libvirt cannot open {uri}: {error}") from error

    def list(self) -> dict[str, RunningVm]:
        """All VMs that the VMM has, by name.

        Raises:
            VmmError: it cannot be asked.
        """
        try:
            domains = self._connection.listAllDomains()
        except libvirt.libvirtError as error:
            raise VmmError(f"the VMM does not tell which VMs run: {error}") from error
        found = {}
        for domain in domains:
            try:
                digest, kind = _metadata_of(domain)
                state, _max, memory_kib, _cpus, cpu_ns = domain.info()
            except libvirt.libvirtError:
                continue  # it ended between the listing and the question
            found[domain.name()] = RunningVm(
                domain.name(), _STATES.get(state, VmState.STOPPED), digest, kind, memory_kib // 1024, cpu_ns / 1e9
            )
        return found

    def start(self, name: str, xml: str) -> None:
        """Start a transient VM from its definition.

        Raises:
            VmmError: libvirt or QEMU refused it.
        """
        try:
            self._connection.createXML(xml, libvirt.VIR_DOMAIN_NONE)
        except libvirt.libvirtError as error:
            raise VmmError(f"VM {name} cannot be started: {error}") from error

    def stop(self, name: str) -> None:
        """End a VM at once; no error when it has ended already.

        Raises:
            VmmError: it still runs.
        """
        try:
            domain = self._connection.lookupByName(name)
        except libvirt.libvirtError:
            return
        try:
            domain.destroy()
        except libvirt.libvirtError as error:
            # Right after a reconnect libvirt may say 'not running' though it did end the VM (facts/runtime.md).
            if _is_active(domain):
                raise VmmError(f"VM {name} cannot be stopped: {error}") from error

    def suspend(self, name: str) -> None:
        """Freeze a VM's processors."""
        self._call(name, "suspend")

    def resume(self, name: str) -> None:
        """Let a frozen VM go on."""
        self._call(name, "resume")

    def monitor(self, name: str, command: str) -> str:
        """The answer of QEMU's monitor to a human command (`info registers -a`).

        Raises:
            VmmError: no such VM, or it did not answer.
        """
        import libvirt_qemu

        try:
            domain = self._connection.lookupByName(name)
            answer = libvirt_qemu.qemuMonitorCommand(domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        except libvirt.libvirtError as error:
            raise VmmError(f"QEMU's monitor of {name} does not answer: {error}") from error
        return str(answer)

    def instance(self, name: str) -> Instance | None:
        """The QEMU process in which a VM runs now; None when it does not run. Asks the machine, not libvirt."""
        return self._lives.of(name)

    def processor_times(self, instance: Instance) -> dict[int, ProcessorTime]:
        """How long each processor of a VM's life has run and waited; empty when the machine does not tell."""
        return instance.processor_times()

    def _call(self, name: str, method: str) -> None:
        try:
            getattr(self._connection.lookupByName(name), method)()
        except libvirt.libvirtError as error:
            raise VmmError(f"cannot {method} VM {name}: {error}") from error

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        # A guest that shuts down still has its QEMU; only the end of that, an event of its own, makes room for the next
        # start. Were both taken for ends, the second would be laid to the VM that was started between them.
        states = {
            libvirt.VIR_DOMAIN_EVENT_STARTED: VmState.RUNNING,
            libvirt.VIR_DOMAIN_EVENT_RESUMED: VmState.RUNNING,
            libvirt.VIR_DOMAIN_EVENT_SUSPENDED: VmState.PAUSED,
            libvirt.VIR_DOMAIN_EVENT_STOPPED: VmState.STOPPED,
            libvirt.VIR_DOMAIN_EVENT_CRASHED: VmState.STOPPED,
        }
        if event in states:
            self._on_event(VmEvent(domain.name(), states[event], f"libvirt event {event}/{detail}"))


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _is_active(domain: Any) -> bool:
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError:
        return False


def _metadata_of(domain: Any) -> tuple[str, str]:
    """The machine digest and the kind that `vinci.vmm.domain` wrote into the definition."""
    try:
        element = ET.fromstring(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE))
    except libvirt.libvirtError:
        return "", ""
    return element.get("digest", ""), element.get("kind", "")


def write_configuration(root: Path) -> None:
    """Make what this node's VMs need of libvirt: ROOT/etc/qemu.conf, and where RAM files lie, on a tmpfs.

    The embedded driver reads that file; a daemon of the node's own is given it (docs/how-to/other-libvirt.md).

    Raises:
        VmmError: QEMU's user is missing, or cannot enter ROOT.
    """
    try:
        user = pwd.getpwnam(QEMU_USER)
    except KeyError as error:
        raise VmmError(f"there is no user {QEMU_USER}: run `make install`") from error
    closed = [folder for folder in root.parents if not folder.stat().st_mode & 0o001]
    if closed:
        raise VmmError(f"QEMU's user {QEMU_USER} cannot enter {closed[-1]}: run `chmod o+x {closed[-1]}`")
    ram = ram_directory(root)
    own_directory(ram.parent, {0})
    own_directory(ram, {0, user.pw_uid})
    os.chown(ram, user.pw_uid, user.pw_gid)
    etc = root / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    text = _QEMU_CONF.format(
        user=QEMU_USER,
        group=grp.getgrgid(user.pw_gid).gr_name,
        ram=ram,
        controllers=", ".join(f'"{name}"' for name in ("cpu", "memory", "cpuacct")),
    )
    (etc / "qemu.conf").write_text(text)


def own_directory(path: Path, owners: set[int]) -> None:
    """Make a directory where everybody may make one, or take one that nobody else made before: no link, no other's.

    Raises:
        VmmError: somebody else's is there, or somebody else may write to it.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o755)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or found.st_mode & 0o022:
        raise VmmError(f"{path} is not a directory of the node's own: remove it")


def ram_directory(root: Path) -> Path:
    """Where guest RAM files of the node with this libvirt root lie: on the machine's tmpfs, one folder a root."""
    return Path("/dev/shm/vinci") / root.as_posix().strip("/").replace("/", "-")
