# SPDX-License-Identifier: GPL-2.0-or-later
"""From a planned VM to libvirt's domain XML: pure text, so that the same plan gives the same machine.

Format: https://libvirt.org/formatdomain.html (libvirt 9.0).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree as ET

from vinci.plan.types import Nic, Vm, VmKind

NAMESPACE = "urn:vinci:domain:1"
SSH_CHANNEL = "org.vinci.ssh"
FW_CFG_PREFIX = "opt/org.vinci/"
TB_CACHE_MIB = 64
"""TCG's translation cache: below 64 MiB guests stall, the default is 1 GiB (facts/runtime.md)."""
CPU_PERIOD_US = 100_000
BASE_CMDLINE = "console=ttyS0 quiet panic=-1 net.ifnames=0 ipv6.disable=1 random.trust_cpu=on cryptomgr.notests"
"""The kernel's cryptographic self-tests are left out: they are a tenth of an emulated boot."""

SELINUX_CMDLINE = {
    VmKind.APP: "security=selinux enforcing=1",
    VmKind.FS: "security=selinux enforcing=1 audit=1 audit_backlog_limit=8192",
    VmKind.FW: "selinux=0",
}
"""An APP-VM's denials stay in its kernel's log; an FS-VM's are what the audit tells, so none may be lost."""


class Accelerator(StrEnum):
    """What runs a guest's instructions; the values are libvirt's domain types."""

    KVM = "kvm"
    TCG = "qemu"


@dataclass(frozen=True, slots=True)
class BootFiles:
    """Where the files lie that one VM boots from. `fw_cfg` maps the short name (`env`) to a file.

    `owner` is the user that the VM's QEMU runs as, and its group, but with KVM the group is `kvm_group` where there is
    one; `tsc_khz` the frequency of this machine's time stamp counter, where it is known for certain.
    """

    kernel: Path
    initramfs: Path
    root: Path
    image_digest: str
    disk: Path | None
    fw_cfg: tuple[tuple[str, Path], ...]
    ssh_socket: Path
    console_socket: Path
    owner: int
    kvm_group: int | None = None
    tsc_khz: int | None = None


def machine_digest(vm: Vm, image_digest: str, accelerator: Accelerator) -> str:
    """What may not change under a running VM: hardware, addresses, image, label. Another digest means a new start."""
    hardware = {
        "name": vm.name,
        "kind": vm.kind,
        "memory_mib": vm.memory_mib,
        "cpu_percent": vm.cpu_percent,
        "nics": [asdict(nic) for nic in vm.nics],
        "routes": [asdict(route) for route in vm.routes],
        "disk": asdict(vm.disk) if vm.disk else None,
        "image": image_digest,
        "accelerator": accelerator,
        "cmdline": command_line(vm, accelerator),
        # what users have read under one label does not stay in memory under another
        "label": vm.label.text if vm.label and vm.kind is VmKind.APP else None,
        "user": "its own",  # and sockets where that user's folder is: a QEMU started otherwise cannot be talked with
    }
    return hashlib.sha256(json.dumps(hardware, sort_keys=True, default=str).encode()).hexdigest()[:32]


def command_line(vm: Vm, accelerator: Accelerator) -> str:
    """The guest kernel's command line."""
    words = [BASE_CMDLINE]
    if accelerator is Accelerator.TCG:
        # Emulated code is never speculated: the mitigations would only cost time. On a loaded host the timer's
        # interrupts come too late for the kernel's check of it, which then panics.
        words.append("mitigations=off no_timer_check")
    words.append(SELINUX_CMDLINE[vm.kind])
    return " ".join(words)


def clock_words(tsc_khz: int | None, accelerator: Accelerator) -> str:
    """More of the command line, for the emulated clock: nothing where the counter's frequency is not known.

    An emulated kernel reads the host's time stamp counter. On a loaded host it may measure the counter's frequency
    wrongly (its clock then runs several times too fast), and it takes counters of two processors for different ones.
    Then it falls back to the HPET: each look at the clock leaves the emulated processor, and a request through a
    gateway takes twice as long.
    """
    if accelerator is not Accelerator.TCG or tsc_khz is None:
        return ""
    return f" tsc=reliable tsc_early_khz={tsc_khz}"


def boot_environment(vm: Vm) -> str:
    """The guest's `env` file: who it is and which addresses its cards have. Values hold no quotes by construction."""
    nics = " ".join(f"{nic.mac},{nic.address}/{nic.prefix}" for nic in vm.nics)
    routes = " ".join(
        f"{'default' if route.network.prefixlen == 0 else route.network},{route.via}" for route in vm.routes
    )
    kind = vm.kind.name
    return f'VINCI_KIND={kind}\nVINCI_HOSTNAME={vm.name}\nVINCI_NICS="{nics}"\nVINCI_ROUTES="{routes}"\n'


def domain_xml(infrastructure: str, vm: Vm, files: BootFiles, accelerator: Accelerator) -> str:
    """libvirt's definition of `vm`."""
    root = ET.Element("domain", type=accelerator.value)
    _text(root, "name", vm.name)
    _text(root, "uuid", str(uuid.uuid5(uuid.NAMESPACE_URL, f"vinci:{infrastructure}:{vm.name}")))
    _metadata(root, vm, machine_digest(vm, files.image_digest, accelerator))
    _resources(root, vm)
    sysinfo = ET.SubElement(root, "sysinfo", type="fwcfg")
    for name, path in files.fw_cfg:
        ET.SubElement(sysinfo, "entry", name=FW_CFG_PREFIX + name, file=str(path))
    _boot(root, vm, files, accelerator)
    _devices(ET.SubElement(root, "devices"), vm, files)
    _owner(root, files, accelerator)
    return ET.tostring(root, encoding="unicode")


def _owner(root: ET.Element, files: BootFiles, accelerator: Accelerator) -> None:
    """QEMU's user. With KVM its group is the one that may use the device; no file of a VM belongs to that group."""
    group = files.owner if accelerator is Accelerator.TCG or files.kvm_group is None else files.kvm_group
    label = ET.SubElement(root, "seclabel", type="static", model="dac", relabel="no")
    _text(label, "label", f"+{files.owner}:+{group}")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _metadata(root: ET.Element, vm: Vm, digest: str) -> None:
    metadata = ET.SubElement(root, "metadata")
    ET.SubElement(metadata, f"{{{NAMESPACE}}}vm", digest=digest, kind=vm.kind.value, community=vm.community or "")


def _resources(root: ET.Element, vm: Vm) -> None:
    _text(root, "memory", str(vm.memory_mib), unit="MiB")
    backing = ET.SubElement(root, "memoryBacking")
    ET.SubElement(backing, "source", type="file")  # the A-VM reads guest memory from this file
    ET.SubElement(backing, "access", mode="shared")
    _text(root, "vcpu", str(max(1, -(-vm.cpu_percent // 100))))
    tune = ET.SubElement(root, "cputune")
    _text(tune, "global_period", str(CPU_PERIOD_US))
    _text(tune, "global_quota", str(vm.cpu_percent * CPU_PERIOD_US // 100))


def _boot(root: ET.Element, vm: Vm, files: BootFiles, accelerator: Accelerator) -> None:
    os_ = ET.SubElement(root, "os")
    _text(os_, "type", "hvm", arch="x86_64", machine="q35")
    _text(os_, "kernel", str(files.kernel))
    _text(os_, "initrd", str(files.initramfs))
    _text(os_, "cmdline", command_line(vm, accelerator) + clock_words(files.tsc_khz, accelerator))
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    if accelerator is Accelerator.TCG:
        _text(ET.SubElement(features, "tcg"), "tb-cache", str(TB_CACHE_MIB), unit="MiB")
        cpu = ET.SubElement(root, "cpu", mode="maximum")
    else:
        cpu = ET.SubElement(root, "cpu", mode="host-model")
    cpu.set("check", "none")
    ET.SubElement(root, "clock", offset="utc")
    _text(root, "on_poweroff", "destroy")
    # A guest that restarts itself would boot with the rules and policy of its first start: the agent starts it anew.
    _text(root, "on_reboot", "destroy")
    _text(root, "on_crash", "destroy")


def _devices(devices: ET.Element, vm: Vm, files: BootFiles) -> None:
    _text(devices, "emulator", "/usr/bin/qemu-system-x86_64")
    _disk(devices, files.root, "vda", "root", readonly=True)
    if files.disk is not None:
        _disk(devices, files.disk, "vdb", "data", readonly=False)
    ET.SubElement(devices, "controller", type="usb", model="none")
    for nic in vm.nics:
        _interface(devices, nic)
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "source", mode="bind", path=str(files.ssh_socket))
    ET.SubElement(channel, "target", type="virtio", name=SSH_CHANNEL)
    console = ET.SubElement(devices, "serial", type="unix")
    ET.SubElement(console, "source", mode="bind", path=str(files.console_socket))
    ET.SubElement(console, "target", type="isa-serial", port="0")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", model="none")


def _disk(devices: ET.Element, path: Path, target: str, serial: str, *, readonly: bool) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    # A guest's flush reaches the host's disk: no acknowledged byte is lost when the VM dies.
    ET.SubElement(disk, "driver", name="qemu", type="raw", cache="writeback", discard="unmap")
    ET.SubElement(disk, "source", file=str(path))
    ET.SubElement(disk, "target", dev=target, bus="virtio")
    _text(disk, "serial", serial)
    if readonly:
        ET.SubElement(disk, "readonly")


def _interface(devices: ET.Element, nic: Nic) -> None:
    # The node's network made this tap, with its rules, before the VM: libvirt only opens it.
    interface = ET.SubElement(devices, "interface", type="ethernet")
    ET.SubElement(interface, "target", dev=nic.tap, managed="no")
    ET.SubElement(interface, "mac", address=nic.mac)
    ET.SubElement(interface, "model", type="virtio")
    ET.SubElement(interface, "driver", name="qemu")
    ET.SubElement(interface, "rom", enabled="no")  # a guest never boots from the network: no boot ROM to run through
