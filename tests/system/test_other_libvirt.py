# SPDX-License-Identifier: GPL-2.0-or-later
"""A node whose VMs belong to a libvirt daemon of its own, set up as docs/how-to/other-libvirt.md tells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import PASSWORD, Installation

from vinci.node.authenticate import hash_password
from vinci.node.network import ensure_namespace, remove_namespace
from vinci.node.paths import NodePaths
from vinci.vmm.host import write_configuration

pytestmark = pytest.mark.daemon
FILE = """
vinci: 1
name: daemon
labels: {levels: [low]}
communities:
  ward: {label: {level: low}, network: 10.78.1.0/24, app_vms: {count: 1}}
users:
  ann: {uid: 20001, communities: {ward: {}}, password_hash: "HASH"}
file_servers: {files: {}}
shares:
  homes: {server: files, kind: homes, label: {level: low}, mount: /home, access: {ward: [read, write]}}
nodes: {n1: {uri: "qemu+unix:///system?socket=FOLDER/libvirt-sock"}}
"""
DAEMON = """
mount -t tmpfs none /etc/libvirt && cp "$1/libvirt/etc/qemu.conf" /etc/libvirt/ &&
printf 'unix_sock_dir = "%s"\\nauth_unix_rw = "none"\\n' "$2" >"$2/libvirtd.conf" &&
exec libvirtd -f "$2/libvirtd.conf" -p "$2/libvirtd.pid"
"""
REAPER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
daemon = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
while os.wait()[0] != daemon:
    pass
"""
"""In a container PID 1 may reap late, and libvirt waits for the end of each QEMU that it asks what it can do."""


@pytest.fixture(scope="module")
def ward() -> Iterator[Installation]:
    """A small installation on a node with a daemon, up."""
    state = Path(tempfile.mkdtemp(prefix="vinci-t-", dir="/tmp"))
    state.chmod(0o711)
    paths = NodePaths(state, "n1")
    installation = Installation(state, state / "ward.yaml")
    installation.file.write_text(FILE.replace("HASH", hash_password(PASSWORD)).replace("FOLDER", str(state)))
    paths.root.mkdir()
    ensure_namespace(paths.namespace)
    write_configuration(paths.libvirt)
    inside = ["nsenter", f"--net=/run/netns/{paths.namespace}", "unshare", "--mount", "sh", "-c", DAEMON, "daemon"]
    words = [sys.executable, "-c", REAPER, *inside, str(paths.root), str(state)]
    daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (state / "libvirt-sock").exists():
            assert daemon.poll() is None, "libvirtd ended"
            assert time.monotonic() < deadline, "libvirtd does not listen"
            time.sleep(0.1)
        installation.check("up", str(installation.file), seconds=600)
        yield installation
    finally:
        done = installation.vinci("down")
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait()
        remove_namespace(paths.namespace)  # there still is one when `up` came to no agent
        if done.status == 0:
            shutil.rmtree(state, ignore_errors=True)


def test_the_daemons_vms_are_what_was_declared(ward: Installation) -> None:
    """Its VMs are enforced, looked into, found again by the next agent, and ended as those of the embedded driver."""
    assert ward.vinci("verify").status == 0
    assert ward.login("ann", "id -u").out == "20001\n"
    paths = NodePaths(ward.state, "n1")
    socket = f"qemu+unix:///system?socket={ward.state}/libvirt-sock"
    listed = subprocess.run(["virsh", "-c", socket, "list", "--name"], capture_output=True, text=True, check=True)
    assert set(listed.stdout.split()) == {"ward-1", "ward-fw", "files"}
    assert not list((paths.libvirt / "run").glob("qemu/*.pid")), "none is the embedded driver's"
    assert "nothing changed" in ward.check("up", str(ward.file))
