# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that a kind of VM may run against the commands in its scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vinci.guest
from vinci.introspect.programs import PROGRAMS
from vinci.plan.types import VmKind

GUEST = Path(vinci.guest.__file__).parent
OTHER_NAMES = {"insmod": "kmod", "modprobe": "kmod", "mkfs.ext4": "mke2fs", "python3": "python3.11"}
"""Links to programs: what runs is the program."""
SHELL = frozenset(
    {"[", ".", "break", "case", "cd", "continue", "do", "done", "echo", "else", "esac", "exec", "exit", "export", "fi"}
    | {"for", "if", "in", "printf", "read", "return", "set", "shift", "then", "trap", "ulimit", "umask", "unset"}
    | {"until", "while"}
)
OTHER_WORDS = frozenset({"count", "homes", "number", "tree"})
"""Variables in arithmetic, and patterns of `case`."""
BEFORE = re.compile(r"[;|(){}\n!]|&&|\b(?:then|do|else|if|while|until|exec|xargs -0|-exec)\b")
"""What a command follows."""
WORD = re.compile(r"\s*(?:[A-Z]+= )?((?:\$here)?[a-z/][\w./-]*)(?=\s|$)")


def commands(script: str) -> tuple[set[str], set[str]]:
    """What stands where a command does, without words of the shell; and the functions that it defines."""
    text = re.sub(r"^\s*#.*$|'[^']*'|\"[^\"]*\"(?=\n)", "", script, flags=re.M).replace("\\\n", " ")
    words = (WORD.match(piece) for piece in BEFORE.split(text))
    called = {word[1].rpartition("/")[2] for word in words if word} - SHELL
    return {OTHER_NAMES.get(word, word) for word in called}, set(re.findall(r"^(\w+)\(\) \{", text, re.M))


@pytest.mark.parametrize("kind", [VmKind.FS, VmKind.FW])
def test_what_the_scripts_of_a_kind_call_may_run_in_it(kind: VmKind) -> None:
    ours = {path.name for path in GUEST.rglob("*")}
    files = [*(GUEST / "init").iterdir(), *(GUEST / kind.name.lower()).iterdir()]
    scripts = [path for path in files if path.name == "network" or path.read_bytes().startswith(b"#!/")]
    shell = [path for path in scripts if b"python" not in path.read_bytes().split(b"\n")[0]]
    in_vm = [path for path in shell if path.name != "initramfs"]
    called, functions = zip(*(commands(path.read_text()) for path in in_vm), strict=True)
    programs = set[str]().union(*called).difference(*functions, OTHER_WORDS, ours)
    assert {"mount", "nft"} <= programs
    assert programs <= {Path(program).name for program in PROGRAMS[kind] or ()}


def test_a_file_server_runs_no_gateway_and_a_firewall_no_file_service() -> None:
    names = {kind: {Path(program).name for program in PROGRAMS[kind] or ()} for kind in (VmKind.FS, VmKind.FW)}
    assert not {"setpriv", "perl", "ssh", "nsenter", "debugfs"} & names[VmKind.FS]
    assert not {"rpc.nfsd", "mke2fs", "perl", "ssh", "nsenter"} & names[VmKind.FW]
