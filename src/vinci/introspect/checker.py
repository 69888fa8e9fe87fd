# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker: the process in which guest memory is read. `python -m vinci.introspect.checker`, started by the agent.

It loads the trusted profile, gives up everything else (`confine`), says which checks it makes, and answers requests
until its socket is closed. A guest that took it over could lie about VMs, no more; a guest that ends it is unchecked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy.ma  # noqa: F401 - numpy loads it at its first use, when no file can be read any more

from vinci.images.build import images_in
from vinci.images.manifest import read_manifest
from vinci.introspect.attach import attach
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.confine import confine
from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.hooks import HookTables
from vinci.introspect.look import ATTACH_SECONDS, CHECKS, OutOfTimeError, Subject, look, processor_time, sentence
from vinci.introspect.memory import GuestMemory, parse_regions
from vinci.introspect.profile import Profile, ensure_profile
from vinci.introspect.programs import PROGRAMS, SANDBOXED
from vinci.introspect.protocol import MAX_REQUEST, Answer, Request, unpacked
from vinci.introspect.registers import parse_registers
from vinci.introspect.selinux import SelinuxWatch
from vinci.plan.types import VmKind

_CHUNK = 64 * 1024


@dataclass(slots=True)
class _Vm:
    """A VM whose memory is mapped; attached once its kernel was found."""

    memory: GuestMemory
    subject: Subject | None = None


class Checker:
    """Answers requests; keeps the memory of the VMs mapped that run."""

    def __init__(
        self, profile: Profile, certified: Mapping[str, CertifiedFiles], policies: Mapping[str, bytes]
    ) -> None:
        """Of the image that each kind of VM runs from: `certified` files, and the SELinux policy in it, if any."""
        self._profile = profile
        self._hooks = HookTables(profile)
        self._certified = certified
        self._policies = policies
        self._vms: dict[str, _Vm] = {}

    def answer(self, request: Request, ram: int | None) -> Answer:
        """Look at the VM that a request names. `ram`: its RAM file, if the request came with one; it is closed here."""
        started = time.perf_counter()
        for gone in self._vms.keys() - request.running:
            del self._vms[gone]
        results: tuple[CheckResult, ...] = ()
        unreachable = ""
        try:
            vm = self._vm(request, ram)
            results = self._results(vm, request)
        except (OSError, ValueError) as error:  # of the agent's words and the RAM file, not of what the memory holds
            unreachable = sentence(error)
        milliseconds = (time.perf_counter() - started) * 1000
        return Answer(request.vm, request.instance, milliseconds, results, unreachable)

    def _vm(self, request: Request, ram: int | None) -> _Vm:
        if ram is not None:
            try:
                regions = parse_regions(request.mtree or "")
                self._vms[request.instance] = _Vm(GuestMemory(mmap.mmap(ram, 0, access=mmap.ACCESS_READ), regions))
            finally:
                os.close(ram)
        if request.instance not in self._vms:
            raise ValueError("its memory was not handed over")
        return self._vms[request.instance]

    def _results(self, vm: _Vm, request: Request) -> tuple[CheckResult, ...]:
        parse_registers(request.registers)  # what QEMU says, not the guest: a ValueError here is no finding
        started = time.perf_counter()
        try:
            with processor_time(ATTACH_SECONDS):
                if vm.subject is None:
                    guest = attach(vm.memory, request.registers, self._profile)
                    kind = VmKind(request.kind)
                    vm.subject = Subject(guest, self._certified[kind], self._hooks, PROGRAMS[kind], SANDBOXED[kind])
        except MemoryError:
            raise  # what all VMs take together
        except (Exception, OutOfTimeError) as error:  # whatever a guest can provoke counts against it
            milliseconds = (time.perf_counter() - started) * 1000
            return (CheckResult(Check.PLACE, 0, milliseconds, error=sentence(error)),)
        if vm.subject.selinux is None or request.policies != vm.subject.policies:
            vm.subject.policies = request.policies
            vm.subject.selinux = self._watch(request)
        vm.subject.ethertypes = frozenset(request.ethertypes)
        vm.subject.guest.passing.clock = lambda: time.monotonic() - request.waited
        return look(vm.subject, request.registers)

    def _watch(self, request: Request) -> SelinuxWatch | None:
        """Watches for the policies that the VM was given, else for the one in its image."""
        policies = [unpacked(policy) for policy in request.policies]
        if not policies and request.kind in self._policies:
            policies = [self._policies[request.kind]]
        return SelinuxWatch(policies) if policies else None


def receive(connection: socket.socket) -> tuple[bytes, int | None]:
    """The next line and the file that came along, if any; an empty line when the agent has gone.

    Raises ValueError when a line is too long or is not alone.
    """
    line, files = b"", list[int]()
    while not line.endswith(b"\n"):
        chunk, came, _flags, _address = socket.recv_fds(connection, _CHUNK, 1)
        files += came
        line += chunk
        if not chunk:
            return b"", None
        if len(line) > MAX_REQUEST or b"\n" in line[:-1] or len(files) > 1:
            raise ValueError("the agent does not keep to the protocol")
    return line, files[0] if files else None


def serve(connection: socket.socket, checker: Checker) -> None:
    """Answer until the agent closes the connection."""
    connection.sendall(json.dumps({"checks": [check.value for check, _ in CHECKS]}).encode() + b"\n")
    while True:
        line, ram = receive(connection)
        if not line:
            return
        connection.sendall(checker.answer(Request.decode(line), ram).encode())


def _ready(profile: Profile) -> Profile:
    """The profile with all read and worked out that is made at first use: later it would be on a VM's time."""
    for name in profile.certified:
        profile.module(name)
    places = (profile.access_prevention, profile.isolation)
    for _made_now in (profile.anchor, places, profile.entries, profile.rules, profile.exports):
        pass
    return profile


def main() -> int:
    """The process's life."""
    parser = argparse.ArgumentParser(prog="vinci-checker", description="reads the memory of a node's VMs")
    parser.add_argument("--socket", type=int, required=True, help="the connected socket's file descriptor")
    parser.add_argument("--images", type=Path, required=True, help="the directory of the set of images that VMs run")
    parser.add_argument("--empty", type=Path, required=True, help="an empty directory to be confined to")
    arguments = parser.parse_args()
    images = images_in(arguments.images, arguments.images.name)
    app, service = (
        CertifiedFiles.of(read_manifest(manifest)) for manifest in (images.app_manifest, images.service_manifest)
    )
    kinds = {VmKind.APP.value: app, VmKind.FS.value: service, VmKind.FW.value: service}
    policies = {VmKind.APP.value: images.app_policy.read_bytes()}
    checker = Checker(_ready(ensure_profile(images)), kinds, policies)
    confine(arguments.empty)
    with (
        socket.socket(fileno=arguments.socket) as connection,
        contextlib.suppress(ConnectionError),
    ):  # the agent has gone
        serve(connection, checker)
    return 0


if __name__ == "__main__":
    sys.exit(main())
