# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile NFSv3 client (RFC 1813) for the client VM: sends what it likes as whom it likes. Prints NFS status numbers.

raw_nfs.py SERVER UID lookup DIRECTORY_HANDLE NAME -> "0 HANDLE" or "STATUS"
raw_nfs.py SERVER UID read|write|getattr|remove HANDLE [NAME] -> "STATUS"
raw_nfs.py SERVER UID mount PATH -> "0 HANDLE" or "STATUS"
"""

import socket
import struct
import sys

NFS, NFS4, MOUNT = (100003, 3, 2049), (100003, 4, 2049), (100005, 3, 20048)


def opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


def call(server: str, uid: int, program: tuple[int, int, int], procedure: int, arguments: bytes) -> bytes:
    with socket.socket() as connection:
        for port in range(1023, 600, -1):
            try:
                connection.bind(("", port))
                break
            except OSError:
                continue
        connection.settimeout(20)
        connection.connect((server, program[2]))
        credentials = struct.pack(">I", 0) + opaque(b"raw") + struct.pack(">III", uid, uid, 0)
        message = struct.pack(">IIIIII", 7, 0, 2, program[0], program[1], procedure)
        message += struct.pack(">I", 1) + opaque(credentials) + struct.pack(">II", 0, 0) + arguments
        connection.sendall(struct.pack(">I", 0x80000000 | len(message)) + message)
        size = struct.unpack(">I", receive(connection, 4))[0] & 0x7FFFFFFF
        reply = receive(connection, size)
    if struct.unpack(">III", reply[:12])[2] != 0:
        sys.exit("rpc denied")
    return reply[24:]


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            sys.exit("connection closed")
        data += chunk
    return data


def main() -> None:
    server, uid, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if what == "mount":
        reply = call(server, uid, MOUNT, 1, opaque(sys.argv[4].encode()))
    else:
        handle = opaque(bytes.fromhex(sys.argv[4]))
        name = opaque(sys.argv[5].encode()) if len(sys.argv) > 5 else b""
        procedure, arguments = {
            "getattr": (1, handle),
            "lookup": (3, handle + name),
            "read": (6, handle + struct.pack(">QI", 0, 100)),
            "write": (7, handle + struct.pack(">QIII", 0, 4, 2, 4) + b"evil"),
            "remove": (12, handle + name),
        }[what]
        reply = call(server, uid, NFS, procedure, arguments)
    status = struct.unpack(">I", reply[:4])[0]
    if status == 0 and what in ("lookup", "mount"):
        size = struct.unpack(">I", reply[4:8])[0]
        print(0, reply[8 : 8 + size].hex())
    else:
        print(status)


if __name__ == "__main__":
    main()
