# SPDX-License-Identifier: GPL-2.0-or-later
"""Evidence: what the node signed is what OpenSSH verifies, with the same key after each start of the agent."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import cast

from vinci.node.introspection.evidence import NAMESPACE, Evidence
from vinci.store.sqlite import Store
from vinci.vmm.host import VmHost


def _verifies(folder: Path, manifest: bytes, namespace: str = NAMESPACE) -> bool:
    words = ["ssh-keygen", "-Y", "verify", "-f", "signers", "-I", "n1", "-n", namespace, "-s", "signature"]
    return subprocess.run(words, cwd=folder, input=manifest, capture_output=True, check=False).returncode == 0


def test_openssh_verifies_what_was_signed_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path / "node.db")
    evidence = Evidence(store, cast(VmHost, None), "n1")
    (tmp_path / "signature").write_text(evidence.sign(b"00  memory.raw\n"))
    (tmp_path / "signers").write_text(f'n1 namespaces="{NAMESPACE}" {evidence.public_key}\n')
    assert _verifies(tmp_path, b"00  memory.raw\n")
    assert not _verifies(tmp_path, b"01  memory.raw\n")
    assert not _verifies(tmp_path, b"00  memory.raw\n", "file")
    store.close()


def test_the_key_stays_the_same(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        store = Store(tmp_path / "node.db")
        keys.append(Evidence(store, cast(VmHost, None), "n1").public_key)
        store.close()
    assert keys[0] == keys[1]
