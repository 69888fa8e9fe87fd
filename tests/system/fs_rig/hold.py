# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps a file open in the client VM; does one operation on it for each line of standard input, says what came of it.

hold.py FILE read|append
"""

import os
import sys

path, mode = sys.argv[1:]
flags = os.O_RDONLY if mode == "read" else os.O_WRONLY | os.O_APPEND | os.O_CREAT
file = os.open(path, flags, 0o666)
print("open", flush=True)
for _ in sys.stdin:
    try:
        if mode == "read":
            # what the page cache holds was read before; the question is what the server still gives
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.pread(file, 10, 0)
        else:
            os.write(file, b"held\n")
            os.fsync(file)
        print("done", flush=True)
    except OSError as error:
        print(f"refused {error.errno}", flush=True)
