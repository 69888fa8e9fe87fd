# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a running VM's memory in this process: for root, who gets from the agent where it is."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

from vinci.cli.failure import Failure, Status
from vinci.vmm.instance import Instance, open_ram


def open_memory(attachment: dict[str, Any]) -> mmap.mmap:
    """The RAM of the VM that the agent's answer describes, read-only; the guest goes on changing it.

    Raises:
        Failure: not root, or the VM has ended.
    """
    if os.geteuid() != 0:
        raise Failure("only root may read a VM's memory", Status.FAILED)
    try:
        file = open_ram(Instance(int(attachment["pid"]), int(attachment["started"])), int(attachment["memory_mib"]))
    except OSError as error:
        raise Failure(f"the memory of VM {attachment['vm']} cannot be opened: {error}", Status.FAILED) from None
    try:
        return mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(file)


def images_of(attachment: dict[str, Any]) -> Path:
    """The directory of the set of images that the VM runs from."""
    return Path(attachment["images"])
