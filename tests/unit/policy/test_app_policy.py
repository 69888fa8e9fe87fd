# SPDX-License-Identifier: GPL-2.0-or-later
"""The APP-VMs' policy, compiled by secilc and read back by setools; its own assertions catch what would weaken it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import setools

from vinci import guest
from vinci.policy.app_policy import app_policy, user_context

SWITCHES = {"load_policy", "setenforce", "setbool", "setsecparam", "setcheckreqprot"}


def compile_(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """secilc's end; the binary is `folder`/p.bin."""
    (folder / "p.cil").write_text(text)
    command = ["secilc", "--mls", "true", "-c", "33", "-o", str(folder / "p.bin"), "-f", "/dev/null"]
    return subprocess.run([*command, str(folder / "p.cil")], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> setools.SELinuxPolicy:
    """The policy of the image."""
    folder = tmp_path_factory.mktemp("policy")
    done = compile_(app_policy(), folder)
    assert done.returncode == 0, done.stderr
    return setools.SELinuxPolicy(str(folder / "p.bin"))


def rights(policy: setools.SELinuxPolicy, source: str, class_: str) -> set[str]:
    """All permissions of `class_` that `source` has on anything."""
    rules = setools.TERuleQuery(policy, ruletype=["allow"], source=source, tclass=[class_]).results()
    return {permission for rule in rules for permission in rule.perms}


@pytest.mark.parametrize("domain", ["vinci_user_t", "vinci_kernel_t"])
def test_nobody_may_change_the_policy_in_force(policy: setools.SELinuxPolicy, domain: str) -> None:
    assert not rights(policy, domain, "security") & SWITCHES


def test_a_user_runs_no_writable_code_and_becomes_nobody_else(policy: setools.SELinuxPolicy) -> None:
    forbidden = {"execmem", "execstack", "execheap", "ptrace", "transition", "dyntransition", "setexec", "setcurrent"}
    assert not rights(policy, "vinci_user_t", "process") & forbidden
    assert "execmod" not in rights(policy, "vinci_user_t", "file")
    for class_ in ("capability", "capability2", "packet_socket", "rawip_socket", "system", "bpf", "perf_event"):
        assert not rights(policy, "vinci_user_t", class_), class_


def test_root_may_do_all_the_rest(policy: setools.SELinuxPolicy) -> None:
    assert {"execmem", "ptrace", "transition"} <= rights(policy, "vinci_kernel_t", "process")
    assert {"sys_module", "net_raw", "sys_admin"} <= rights(policy, "vinci_kernel_t", "capability")


@pytest.mark.parametrize(
    "rule",
    [
        "vinci_user_t vinci_user_t (process (execmem))",
        "vinci_user_t vinci_guest_t (file (execmod))",
        "vinci_user_t vinci_guest_t (file (write))",
        "vinci_user_t vinci_user_t (capability (setuid))",
        "vinci_user_t vinci_kernel_t (process (transition))",
        "vinci_user_t vinci_user_t (packet_socket (create))",
        "vinci_user_t vinci_guest_t (system (module_load))",
        "vinci_kernel_t vinci_guest_t (security (setenforce))",
    ],
)
def test_a_rule_that_would_weaken_it_does_not_compile(rule: str, tmp_path: Path) -> None:
    done = compile_(f"{app_policy()}(allow {rule})\n", tmp_path)
    assert done.returncode != 0
    assert "neverallow" in done.stderr + done.stdout


def test_the_guests_scripts_name_contexts_of_the_policy(policy: setools.SELinuxPolicy) -> None:
    scripts = "".join(
        (Path(guest.__file__).parent / name).read_text() for name in ("init/rc", "app/app-login", "app/app-session")
    )
    contexts = re.findall(r"vinci_u:[a-z_]+:[a-z_]+:s0", scripts)
    assert user_context() in contexts
    for context in contexts:
        policy.lookup_type(context.split(":")[2])
        policy.lookup_role(context.split(":")[1])
