# SPDX-License-Identifier: GPL-2.0-or-later
"""The process of one gateway: reads its settings, listens, gives up every right that it no longer needs, serves."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading

from .confine import confine
from .relay import Relay
from .settings import read_settings

STACK_BYTES = 256 << 10
BACKLOG = 16
RECORDS = 1
"""Standard output is the kernel's log: a line is written by one call, and a gateway cannot speak as the kernel."""


def main(path: str) -> None:
    """Serve for ever with the settings in the file at `path`; ends only by a failure."""
    with open(path) as file:  # noqa: PTH123 (pathlib is not in Python's minimal library)
        settings = read_settings(file.read())
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", settings.number))
    listener.listen(BACKLOG)
    threading.stack_size(STACK_BYTES)
    relay = Relay(settings, lambda line: os.write(RECORDS, line))
    confine()
    gc.freeze()
    relay.serve(listener)


if __name__ == "__main__":
    main(sys.argv[1])
