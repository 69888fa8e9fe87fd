# SPDX-License-Identifier: GPL-2.0-or-later
"""Introspection as a service on running VMs: who is tampered with is found, answered as declared, and comes back only
by an administrator's word; a checker that fails never looks like clean VMs."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from installation import PASSWORD, VINCI, Installation, installed
from processes import agents, pids, wait_for_agent
from rootkit.build import rootkit_module
from rootkit.driver import Trick
from rootkit.expected import EXPECTED, Expected, lines, named
from rootkit.policies import laxer_policy
from tamper import SELINUX_ENFORCING, changed_byte, changed_text
from watching import event_of, next_record, records, told, trust_of, wait_for

from vinci.images.build import find_images
from vinci.introspect.findings import Check, Finding, Severity
from vinci.node.paths import images_directory

HERE = Path(__file__).parent
FS, STRICT = "10.31.2.2", "10.31.2.10"
VMS = ("strict-1", "strict-fw", "harsh-1", "harsh-fw", "files")
REASON = ("--reason", "the byte was put back by the test")


@pytest.fixture(scope="module")
def watched() -> Iterator[Installation]:
    """Two communities and their file server, up: all three responses."""
    with installed(HERE / "watched.yaml") as made:
        made.up()
        wait_for(made, lambda trust: all(trust[vm]["verdict"] == "trusted" for vm in VMS), seconds=120)
        yield made


def _checker(installation: Installation) -> int:
    (pid,) = pids("vinci.introspect.checker", f"{installation.state}/")
    return pid


def _reaches_file_server(installation: Installation) -> bool:
    done = installation.root("strict-1", f"timeout 4 bash -c 'exec 3<>/dev/tcp/{FS}/2049' 2>/dev/null && echo reached")
    return "reached" in done.out


def _users_known_to_file_server(installation: Installation) -> int:
    """How many subjects the file server's kernel knows now; one of them for each VM's root, who may only mount."""
    lines = installation.check("exec", "files", "--", "cat", "/proc/vinci/grants").splitlines()
    return int(next(line.removeprefix("rows ") for line in lines if line.startswith("rows ")))


@contextmanager
def _logged_in(installation: Installation) -> Iterator[None]:
    """Sam is logged in on strict-1."""
    environment = {**os.environ, "VINCI_STATE": str(installation.state)}
    words = [str(VINCI), "login", "sam", "--", "sh", "-c", "echo in; exec sleep 1000"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as login:
        try:
            assert login.stdin is not None
            assert login.stdout is not None
            login.stdin.write(PASSWORD + "\n")
            login.stdin.flush()
            assert login.stdout.readline() == "in\n"
            yield
        finally:
            login.kill()


def test_clean_vms_are_trusted_and_every_check_is_shown(watched: Installation) -> None:
    looks = json.loads(watched.check("inspect", "--json"))
    assert {entry["look"]["vm"] for entry in looks} == {vm["name"] for vm in watched.status()["vms"]}
    for entry in looks:
        assert not [row["findings"] for row in entry["look"]["results"] if row["findings"]], entry["look"]
        assert all(row["examined"] > 0 for row in entry["look"]["results"] if row["check"] != "selinux"), entry["look"]
        (selinux,) = (row for row in entry["look"]["results"] if row["check"] == "selinux")
        assert (selinux["examined"] > 0) == (not entry["look"]["vm"].endswith("-fw"))  # which runs without SELinux
    assert "kernel-text" in watched.check("inspect", "harsh-1")


def test_the_checker_has_nothing_but_what_it_was_given(watched: Installation) -> None:
    process = Path(f"/proc/{_checker(watched)}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    assert "0" not in status["Uid"].split()
    assert not status["Groups"].split()
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert not list((process / "root").iterdir())
    assert (process / "ns" / "net").stat().st_ino != Path("/proc/self/ns/net").stat().st_ino
    networks = subprocess.run(
        ["nsenter", f"--net={process}/ns/net", "ip", "-o", "link"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(networks) == 1  # its own loopback, which is down
    memory = [fd.name for fd in (process / "fd").iterdir() if "/dev/shm" in str(fd.readlink())]
    assert len(memory) == len(watched.status()["vms"])
    for fd in memory:
        lines = (process / "fdinfo" / fd).read_text().splitlines()
        flags = int(next(line.split()[1] for line in lines if line.startswith("flags:")), 8)
        assert flags & os.O_ACCMODE == os.O_RDONLY
    assert not [
        line for line in (process / "maps").read_text().splitlines() if ".ram" in line and "w" in line.split()[1]
    ]


def test_evidence_is_whole_and_signed_and_shows_what_was_changed(watched: Installation, tmp_path: Path) -> None:
    directory = tmp_path / "evidence"
    done = watched.vinci("inspect", "harsh-1", "--save", str(directory), "--pause")
    assert done.status == 0, done
    assert json.loads((directory / "about.json").read_text())["paused"] is True
    assert (directory / "memory.raw").stat().st_size == 192 << 20
    assert directory.stat().st_mode & 0o077 == 0
    (key,) = (directory / "allowed_signers").read_text().splitlines()
    assert key.endswith(watched.status()["evidence_key"])  # noted when the node was set up, in earnest
    assert _verifies(directory)
    code = "print(prog['init_task'].comm.string_().decode())"
    assert watched.check("shell", "--saved", str(directory), "-c", code) == "swapper/0\n"
    with (directory / "memory.raw").open("r+b") as memory:
        memory.seek(5 << 20)
        memory.write(b"x")
    assert not _verifies(directory)
    again = watched.vinci("inspect", "harsh-1", "--save", str(directory))
    assert again.status == 2
    assert "not empty" in again.err
    assert {vm["state"] for vm in watched.status()["vms"]} == {"running"}
    assert watched.root("harsh-1", "echo it goes on").out == "it goes on\n"


def _verifies(directory: Path) -> bool:
    """As docs/how-to/investigate.md says."""
    script = (
        "sha256sum --check --quiet MANIFEST && "
        "ssh-keygen -Y verify -f allowed_signers -I n1 -n vinci-evidence -s MANIFEST.sig < MANIFEST"
    )
    return subprocess.run(["sh", "-c", script], cwd=directory, capture_output=True, check=False).returncode == 0


def test_the_shell_shows_the_vms_own_processes(watched: Installation) -> None:
    code = "print(*sorted({task.comm.string_().decode() for task in for_each_task(prog)}), sep='\\n')"
    shown = set(watched.check("shell", "harsh-1", "-c", code).split())
    there = set(watched.root("harsh-1", "cat /proc/[0-9]*/comm").out.split())
    assert {"kthreadd", "sshd"} <= shown & there
    assert watched.check("shell", "harsh-1", "-c", "print(prog['init_task'].comm.string_().decode())") == "swapper/0\n"


def test_alert_is_shown_and_recorded_and_ends_by_an_administrators_word_only(watched: Installation) -> None:
    since = next_record(watched)
    with changed_text(watched, "files"):
        record = event_of(watched, since, "vm-compromised", "files")
        assert "kernel_kexec" in record["message"]
        assert record["response"] == "alert"
        done = watched.vinci("inspect", "files")
        assert done.status == 1
        assert "kernel_kexec" in done.out
        refused = watched.vinci("release", "files", *REASON)
        assert refused.status == 1
        assert "still compromised" in refused.err
    wait_for(watched, lambda trust: trust["files"]["releasable"])
    assert trust_of(watched)["files"]["verdict"] == "compromised"
    watched.check("release", "files", *REASON)
    released = event_of(watched, since, "vm-released", "files")
    assert released["administrator"] == "root"
    assert REASON[1] in released["message"]
    assert trust_of(watched)["files"]["verdict"] == "trusted"
    assert not [r for r in records(watched, since) if r["event"] == "vm-quarantined"]
    assert watched.vinci("release", "files", *REASON).status == 1  # there is nothing to release


def test_quarantine_cuts_ports_and_rights_and_outlives_the_agent_and_the_vm(watched: Installation) -> None:
    since = next_record(watched)
    with _logged_in(watched):
        assert _reaches_file_server(watched)
        assert _users_known_to_file_server(watched) == 2
        with changed_text(watched, "strict-1"):
            event_of(watched, since, "vm-quarantined", "strict-1")
            assert not _reaches_file_server(watched)
            deadline = time.monotonic() + 60
            while _users_known_to_file_server(watched):  # the table goes after the record
                assert time.monotonic() < deadline
            assert [s["user"] for s in watched.status()["sessions"]] == ["sam"]  # kept for the investigator
            again = watched.login("sam", "id")
            assert again.status == 3
            assert "release" in again.err
            watched.check("up", str(watched.file))
            assert not _reaches_file_server(watched)

            _supervisor, agent = agents(watched)
            os.kill(agent, signal.SIGKILL)
            wait_for_agent(watched)
            assert trust_of(watched)["strict-1"]["verdict"] == "compromised"
            assert not _reaches_file_server(watched)
            assert watched.vinci("release", "strict-1", *REASON).status == 1

    (victim,) = pids("qemu-system", "guest=strict-1,", f"{watched.state}/")
    os.kill(victim, signal.SIGKILL)
    event_of(watched, since, "vm-started", "strict-1")
    trust = wait_for(watched, lambda trust: trust["strict-1"]["releasable"], seconds=120)
    assert trust["strict-1"]["verdict"] == "compromised"
    assert not _reaches_file_server(watched)
    watched.check("release", "strict-1", *REASON)
    assert _reaches_file_server(watched)
    assert watched.login("sam", "echo x > /shares/papers/x && cat /shares/papers/x").out == "x\n"


def _put(installation: Installation, vm: str, path: str, content: bytes) -> None:
    done = installation.vinci(
        *("exec", vm, "--", "sh", "-c", f"base64 -d >{path}"), stdin=base64.b64encode(content).decode()
    )
    assert done.status == 0, done


def _found(installation: Installation, vm: str) -> list[Finding]:
    """What `vinci inspect` finds now."""
    (entry,) = json.loads(installation.vinci("inspect", vm, "--json").out)
    return [_finding(plain) for row in entry["look"]["results"] for plain in row["findings"]]


def _finding(plain: dict[str, str]) -> Finding:
    return Finding(Check(plain["check"]), plain["what"], plain["where"], Severity(plain["severity"]))


SOME_TRICKS = (Trick.FTRACE, Trick.FILE_OPS, Trick.MODPROBE_PATH, Trick.HIDE_MODULE_TREE, Trick.PACKET_HANDLER)


def test_a_rootkit_is_named_and_answered_as_declared(watched: Installation) -> None:
    """From its loading to its end, through the agent; tests/system/test_rootkit.py plays all its tricks."""
    since, module = next_record(watched), rootkit_module(find_images(images_directory()))
    _put(watched, "strict-1", "/root/rootkit.ko", module.read_bytes())
    assert watched.root("strict-1", "insmod /root/rootkit.ko").status == 0
    assert "rootkit" in event_of(watched, since, "vm-compromised", "strict-1")["message"]
    event_of(watched, since, "vm-quarantined", "strict-1")
    assert not _reaches_file_server(watched)
    for trick in SOME_TRICKS:
        assert watched.root("strict-1", f"echo on {trick} >/proc/rootkit").status == 0
        found = _found(watched, "strict-1")
        assert named(found, EXPECTED[trick], 0), f"{trick}\n{lines(found)}"
        assert watched.root("strict-1", f"echo off {trick} >/proc/rootkit").status == 0
    watched.root("strict-1", "rmmod rootkit")
    wait_for(watched, lambda trust: trust["strict-1"]["releasable"])
    watched.check("release", "strict-1", *REASON)
    assert _reaches_file_server(watched)


PROGRAM_TRICKS = (Trick.PACKET_SOCKET, Trick.SELF_PATCHING, Trick.ANONYMOUS_CODE, Trick.FILELESS_PROGRAM)


@pytest.fixture(scope="module")
def malware(watched: Installation) -> str:
    """The program's path in the VM."""
    _put(watched, "strict-1", "/root/malware.py", (HERE / "rootkit/malware.py").read_bytes())
    return "/root/malware.py"


@pytest.mark.parametrize("trick", PROGRAM_TRICKS)
def test_a_trick_of_a_program_is_named_and_answered_as_declared(
    watched: Installation, malware: str, trick: Trick
) -> None:
    """What was found stays known after the program has ended, until the release."""
    since = next_record(watched)
    start = f"(setsid python3 {malware} {trick} >/dev/null 2>&1 </dev/null & echo $!)"
    pid = int(watched.root("strict-1", start).out)
    try:
        event_of(watched, since, "vm-quarantined", "strict-1")
    finally:
        ended = watched.root("strict-1", f"kill {pid}")
    assert ended.status == 0
    trust = wait_for(watched, lambda trust: trust["strict-1"]["releasable"])["strict-1"]
    assert not told(trust)[1:]
    found = [_finding(plain) for plain in trust["incident_findings"]]
    assert named(found, EXPECTED[trick], pid), lines(found)
    watched.check("release", "strict-1", *REASON)


def test_a_firewall_answers_as_its_community_declares(watched: Installation) -> None:
    since = next_record(watched)
    with changed_text(watched, "strict-fw"):
        record = event_of(watched, since, "vm-compromised", "strict-fw")
        assert record["response"] == "quarantine"
        event_of(watched, since, "vm-quarantined", "strict-fw")
    wait_for(watched, lambda trust: trust["strict-fw"]["releasable"])
    watched.check("release", "strict-fw", *REASON)


def test_selinux_switched_off_in_the_memory_of_an_app_vm_is_answered(watched: Installation) -> None:
    since = next_record(watched)
    with changed_byte(watched, "strict-1", SELINUX_ENFORCING, 1):
        assert "SELinux does not enforce" in event_of(watched, since, "vm-compromised", "strict-1")["message"]
        event_of(watched, since, "vm-quarantined", "strict-1")
    wait_for(watched, lambda trust: trust["strict-1"]["releasable"])
    watched.check("release", "strict-1", *REASON)


def test_another_policy_in_an_app_vm_is_answered(watched: Installation) -> None:
    """The kernel takes it while SELinux is off in memory, and enforces it from then on."""
    since, own = next_record(watched), find_images(images_directory()).app_policy.read_bytes()
    laxer = laxer_policy(("vinci_user_t", "vinci_user_t", "process", "execmem"))
    load = "dd if=/root/policy of=/sys/fs/selinux/load bs=64M count=1"
    for content in (laxer, own):
        _put(watched, "strict-1", "/root/policy", content)
        with changed_byte(watched, "strict-1", SELINUX_ENFORCING, 1):
            assert watched.root("strict-1", load).status == 0
        if content == laxer:
            found = _found(watched, "strict-1")
            assert named(found, Expected(Check.SELINUX, "not the trusted one"), 0), lines(found)
    event_of(watched, since, "vm-quarantined", "strict-1")
    wait_for(watched, lambda trust: trust["strict-1"]["releasable"])
    watched.check("release", "strict-1", *REASON)


def test_a_program_that_a_file_server_does_not_run_is_named(watched: Installation) -> None:
    since = next_record(watched)
    pid = int(watched.root("files", "(setsid ssh-agent -D >/dev/null 2>&1 </dev/null & echo $!)").out)
    try:
        record = event_of(watched, since, "vm-compromised", "files")
    finally:
        watched.root("files", f"kill {pid}")
    assert "a program that this kind of VM does not run" in record["message"]
    assert "/usr/bin/ssh-agent" in record["message"]
    wait_for(watched, lambda trust: trust["files"]["releasable"])
    watched.check("release", "files", *REASON)


def test_a_stopped_vm_starts_again_only_when_it_was_released(watched: Installation) -> None:
    since = next_record(watched)
    with changed_text(watched, "harsh-1"):
        event_of(watched, since, "vm-stopped", "harsh-1")
    watched.check("up", str(watched.file))
    assert not pids("qemu-system", "guest=harsh-1,", f"{watched.state}/")
    assert trust_of(watched)["harsh-1"]["verdict"] == "compromised"
    watched.check("release", "harsh-1", *REASON)
    event_of(watched, since, "vm-started", "harsh-1")
    wait_for(watched, lambda trust: trust["harsh-1"]["verdict"] == "trusted", seconds=120)


def test_a_killed_checker_never_looks_like_clean_vms(watched: Installation) -> None:
    wait_for(watched, lambda trust: all(trust[vm]["verdict"] == "trusted" for vm in VMS))
    since = next_record(watched)
    os.kill(_checker(watched), signal.SIGKILL)
    event_of(watched, since, "checker-failed")
    for vm in VMS:
        event_of(watched, since, "vm-unchecked", vm)
    wait_for(watched, lambda trust: all(trust[vm]["verdict"] == "trusted" for vm in VMS))


def test_a_stopped_checker_is_noticed_and_replaced(watched: Installation) -> None:
    since, stopped = next_record(watched), _checker(watched)
    os.kill(stopped, signal.SIGSTOP)
    for vm in VMS:
        event_of(watched, since, "vm-unchecked", vm)
    event_of(watched, since, "checker-failed")
    wait_for(watched, lambda trust: all(trust[vm]["verdict"] == "trusted" for vm in VMS))
    assert _checker(watched) != stopped
    assert not Path(f"/proc/{stopped}").exists()


def test_a_killed_agent_takes_its_checker_along(watched: Installation) -> None:
    before = _checker(watched)
    _supervisor, agent = agents(watched)
    os.kill(agent, signal.SIGKILL)
    wait_for_agent(watched)
    trust = wait_for(watched, lambda trust: all(trust[vm]["verdict"] == "trusted" for vm in VMS))
    assert _checker(watched) != before
    (selinux,) = (row for row in trust["files"]["look"]["results"] if row["check"] == "selinux")
    assert selinux["examined"] > 0  # the new agent knows what it was given by the old one


def test_a_clean_restart_is_no_finding(watched: Installation) -> None:
    since = next_record(watched)
    watched.root("harsh-1", "sleep 1; echo b > /proc/sysrq-trigger")
    event_of(watched, since, "vm-started", "harsh-1")
    event_of(watched, since, "vm-trusted", "harsh-1")
    assert not [r for r in records(watched, since) if r["event"] == "vm-compromised"]


def test_a_kernel_started_by_another_is_named_and_ends_with_the_vm(watched: Installation) -> None:
    images, since = find_images(images_directory()), next_record(watched)
    for name, content in (
        ("kernel", images.kernel.read_bytes()),
        ("initramfs", images.initramfs.read_bytes()),
        ("malware.py", (HERE / "rootkit/malware.py").read_bytes()),
    ):
        _put(watched, "strict-1", f"/tmp/{name}", content)
    load = 'python3 /tmp/malware.py kexec-load /tmp/kernel /tmp/initramfs "$(cat /proc/cmdline)"'
    assert watched.root("strict-1", load).out == "ready\n"
    watched.root("strict-1", "setsid python3 /tmp/malware.py kexec >/dev/null 2>&1 &")
    event_of(watched, since, "vm-quarantined", "strict-1")
    runs = lambda line: line.startswith(Check.PLACE) and "(kexec)" not in line  # noqa: E731  no longer only waits
    wait_for(watched, lambda trust: any(map(runs, told(trust["strict-1"]))))
    (victim,) = pids("qemu-system", "guest=strict-1,", f"{watched.state}/")
    ended = next_record(watched)
    os.kill(victim, signal.SIGKILL)
    event_of(watched, ended, "vm-started", "strict-1")  # while it does not run there is nothing to look at
    wait_for(watched, lambda trust: trust["strict-1"]["releasable"], seconds=120)
    watched.check("release", "strict-1", *REASON)
