# SPDX-License-Identifier: GPL-2.0-or-later
"""The users that VMs' QEMUs run as."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FIRST_OF = """
import sys
from pathlib import Path
from vinci.node.owners import Owners
from vinci.vmm.host import VmmError
try:
    print(Owners(Path(sys.argv[1])).of("doctors-1"))
except VmmError as error:
    print(error)
"""


def test_a_container_without_these_users_is_told_what_to_do(tmp_path: Path) -> None:
    """In a user namespace that has root only the system says no more than "invalid argument"."""
    program = [sys.executable, "-c", FIRST_OF, str(tmp_path)]
    text = subprocess.run(["unshare", "-Ur", *program], capture_output=True, text=True, check=True).stdout
    assert text.startswith("doctors-1 needs a user of its own, and user 18")
    assert "run Vinci outside of this container, or map UIDs and GIDs 18" in text
