# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at VMs in which nothing is wrong, half of them under load: how many, and each false alarm with what it said.

Boots an APP-VM, an FS-VM (live patch, SELinux policy) and an FW-VM and looks at them in turn, exactly as a sweep does,
for so many seconds; after each load as often without. Each run adds a line for each VM and load to LOG; the lines of
all runs of the same code are summed up at the end, so that many short runs make a long one. Exits with 1 when there was
an alarm, or when all runs together have made fewer than WANTED looks. Needs root.

    .venv/bin/python bench/clean_sweeps.py [SECONDS] [LOG] [WANTED]
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests/system"), str(ROOT / "tests/system/fs_rig")]

from fs_rig import scenario  # noqa: E402
from seen_vm import Seen, boot_seen  # noqa: E402

from vinci.images import inputs  # noqa: E402
from vinci.images.build import Images, ensure_images  # noqa: E402
from vinci.images.manifest import read_manifest  # noqa: E402
from vinci.introspect.certified import CertifiedFiles  # noqa: E402
from vinci.introspect.findings import Finding, Look, Severity, Verdict, rests_on_registers, verdict_of  # noqa: E402
from vinci.introspect.hooks import HookTables  # noqa: E402
from vinci.introspect.look import Subject, look  # noqa: E402
from vinci.introspect.profile import Profile, ensure_profile  # noqa: E402
from vinci.introspect.programs import PROGRAMS, SANDBOXED  # noqa: E402
from vinci.introspect.registers import parse_registers  # noqa: E402
from vinci.introspect.selinux import SelinuxWatch  # noqa: E402
from vinci.node.introspection.sweep import CONFIRMATIONS, RAN_SECONDS, STILL_SECONDS, STILL_TICK  # noqa: E402
from vinci.node.paths import images_directory  # noqa: E402
from vinci.plan.types import VmKind  # noqa: E402
from vinci.vmm.instance import Instance  # noqa: E402

BLOCK_SECONDS = 10.0
"""So long is looked under one load, then as often without."""
MODULES = {VmKind.APP: "af_packet_diag inet_diag 8021q", VmKind.FS: "nft_log nft_limit", VmKind.FW: "nft_log tun"}
LOADS = {
    "forks": "while :; do for i in 1 2 3 4 5 6 7 8; do /bin/true & done; wait; done",
    "modules": "while :; do modprobe -r {modules}; modprobe -a {modules}; done",
    "page cache": "while :; do find /usr /etc -xdev -type f | head -n 2000 | xargs cat >/dev/null 2>&1; "
    "echo 3 >/proc/sys/vm/drop_caches; ls -R /usr >/dev/null; done",
}
WANTED = 20_000
"""As many as a day's worth of sweeps has to give no alarm, half of them under load."""
RULES = b'{"nftables": [{"flush": {"ruleset": null}}, {"add": {"table": {"family": "inet", "name": "t"}}}]}'


class Watched:
    """A running VM, and the looks at it."""

    def __init__(self, kind: VmKind, seen: Seen, subject: Subject) -> None:
        self.kind, self.seen, self.subject = kind, seen, subject
        self.looks: Counter[str] = Counter()
        self.alarms: list[str] = []
        self._instance = Instance(seen.machine.process.pid, 0)
        self.again: Counter[str] = Counter()
        """Looks that found something, and were made again when the VM had run."""

    def _with_registers(self) -> Look:
        waited = max(each.waited for each in self._instance.processor_times().values())
        self.subject.guest.passing.clock = lambda: time.monotonic() - waited
        for _ in range(1 + CONFIRMATIONS):
            results = look(self.subject, self.seen.registers())
            seen = Look(self.kind, verdict_of(results), results, 0.0)
            if not rests_on_registers(seen):
                break
        return seen

    def _has_run(self) -> bool:
        """As `Sweep._has_run`, of this VM."""
        before, end = self._instance.processor_times(), time.monotonic() + STILL_SECONDS
        while time.monotonic() < end:
            time.sleep(STILL_TICK)
            now = self._instance.processor_times()
            still = {number for number, each in now.items() if each.ran - before[number].ran < RAN_SECONDS}
            if not still - {each.number for each in parse_registers(self.seen.registers()) if each.halted}:
                return True
        return False

    def look(self, load: str) -> None:
        """One look as a sweep makes it, counted under the load."""
        seen = self._with_registers()
        if seen.verdict is Verdict.COMPROMISED:
            self.again[load] += 1
            seen = self._with_registers() if self._has_run() else replace(seen, verdict=Verdict.UNCHECKED)
        self.looks[load] += 1
        results = seen.results
        if seen.verdict is Verdict.COMPROMISED:
            self.alarms += [f"{self.kind} {load}: {text(f)}" for row in results for f in row.findings if tampered(f)]
            self.alarms += [f"{self.kind} {load}: {row.check} failed: {row.error}" for row in results if row.error]

    @contextmanager
    def loaded(self, load: str) -> Iterator[None]:
        """The load runs in the VM during the block."""
        script = shlex.quote(LOADS[load].format(modules=MODULES[self.kind]))
        self.seen.sh(f"setsid sh -c {script} >/dev/null 2>&1 & echo $! >/run/load")
        try:
            yield
        finally:
            self.seen.sh("kill -KILL -- -$(cat /run/load)")


def text(finding: Finding) -> str:
    """A finding in a line."""
    return f"{finding.check}: {finding.what} | {finding.where}"


def tampered(finding: Finding) -> bool:
    """Whether it is an alarm."""
    return finding.severity is Severity.TAMPERED


def boot(
    runner: asyncio.Runner, running: ExitStack, images: Images, profile: Profile, policy: bytes
) -> Iterator[Watched]:
    """One VM of each kind, as the agent boots and watches them."""
    hooks = HookTables(profile)
    app, service = (CertifiedFiles.of(read_manifest(m)) for m in (images.app_manifest, images.service_manifest))
    given = {
        VmKind.APP: (app, {}, images.app_policy.read_bytes()),
        VmKind.FS: (service, {"policy": policy, "shares": scenario.table()}, policy),
        VmKind.FW: (service, {"rules": RULES}, None),
    }
    for kind, (files, payload, selinux) in given.items():
        folder = Path(tempfile.mkdtemp(prefix="vinci-clean-", dir="/dev/shm"))
        disk = folder / "disk"
        with disk.open("wb") as file:
            file.truncate(256 << 20)
        rig, seen = boot_seen(
            runner, images, profile, folder, kind.name, files=payload, disk=disk if kind is VmKind.FS else None
        )
        running.callback(lambda rig=rig: runner.run(rig.close()))
        seen.sh(f"modprobe -a {MODULES[kind]}")
        watch = SelinuxWatch([selinux]) if selinux else None
        yield Watched(kind, seen, Subject(seen.guest, files, hooks, PROGRAMS[kind], SANDBOXED[kind], watch))


def sweep(watched: list[Watched], seconds: float) -> None:
    """Look at all of them in turn until the time is over; each round of loads is whole."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for load in LOADS:
            turns = 0
            with ExitStack() as loads:
                for one in watched:
                    loads.enter_context(one.loaded(load))
                until = time.monotonic() + BLOCK_SECONDS
                while time.monotonic() < until:
                    turns += 1
                    for one in watched:
                        one.look(load)
            for _ in range(turns):
                for one in watched:
                    one.look("idle")


def checks_digest() -> str:
    """Of the code that looks: counts of other checks are not these checks'."""
    return inputs.text_digest(inputs.file_digests(ROOT / "src/vinci/introspect"))[:12]


def main() -> int:
    """Look, write the log, and print what it says; the exit code."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    log = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.gettempdir()) / "vinci-clean-sweeps.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    images = ensure_images(images_directory())
    profile, code = ensure_profile(images), checks_digest()
    with asyncio.Runner() as runner, ExitStack() as running, tempfile.TemporaryDirectory() as folder:
        watched = list(boot(runner, running, images, profile, scenario.policy(Path(folder))))
        began = time.process_time()
        sweep(watched, seconds)
        used = time.process_time() - began
    with log.open("a") as file:
        for one in watched:
            for load, looks in one.looks.items():
                said = [alarm for alarm in one.alarms if alarm.startswith(f"{one.kind} {load}:")]
                line = {"code": code, "kind": one.kind, "load": load, "looks": looks, "alarms": said}
                line["again"] = one.again[load]
                file.write(json.dumps(line) + "\n")
    looked = sum(one.looks.total() for one in watched)
    again = sum(one.again.total() for one in watched)
    print(f"{os.cpu_count()} cores; {looked} looks in this run, {used / looked * 1000:.0f} ms of processor time each")
    print(f"{again} of them found something, and were made again when the VM had run")
    wanted = int(sys.argv[3]) if len(sys.argv) > 3 else WANTED
    return report([line for line in map(json.loads, log.read_text().splitlines()) if line["code"] == code], log, wanted)


def report(lines: list[dict[str, object]], log: Path, wanted: int) -> int:
    """What all runs together have seen; 1 for alarms, or for fewer looks than wanted."""
    looks: Counter[tuple[str, str]] = Counter()
    for line in lines:
        looks[str(line["kind"]), str(line["load"])] += int(str(line["looks"]))
    alarms = [alarm for line in lines for alarm in line["alarms"]]  # type: ignore[attr-defined]
    for (kind, load), number in sorted(looks.items()):
        print(f"  {kind:6} {load:12} {number:6} looks")
    busy = sum(number for (_, load), number in looks.items() if load != "idle")
    print(f"{looks.total()} looks in all runs in {log}, {busy} of them under load; {len(alarms)} alarms")
    for alarm, number in Counter(alarms).most_common():
        print(f"  {number} times {alarm}")
    return int(bool(alarms) or looks.total() < wanted)


if __name__ == "__main__":
    sys.exit(main())
