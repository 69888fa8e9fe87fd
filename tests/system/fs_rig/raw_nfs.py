# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile NFSv3 client (RFC 1813) for the client VM: sends what it likes as whom it likes. Prints NFS status numbers.

raw_nfs.py SERVER UID lookup DIRECTORY_HANDLE NAME -> "0 HANDLE" or "STATUS"
raw_nfs.py SERVER UID read|write|getattr|remove HANDLE [NAME] -> "STATUS"
raw_nfs.py SERVER UID mount PATH -> "0 HANDLE" or "STATUS"
raw_nfs.py SERVER UID flood HANDLE NUMBER -> asks for attributes as so many UIDs, from UID on; no output
raw_nfs.py SERVER UID connect NUMBER -> how many of so many connections are made within 5 seconds
"""

import socket
import struct
import sys
import time

NFS, NFS4, MOUNT = (100003, 3, 2049), (100003, 4, 2049), (100005, 3, 20048)


def opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


def connect(server: str, port: int) -> socket.socket:
    """From a privileged port, as the server wants it."""
    connection = socket.socket()
    for own_port in range(1023, 600, -1):
        try:
            connection.bind(("", own_port))
            break
        except OSError:
            continue
    connection.settimeout(20)
    connection.connect((server, port))
    return connection


def call(server: str, uid: int, program: tuple[int, int, int], procedure: int, arguments: bytes) -> bytes:
    with connect(server, program[2]) as connection:
        return exchange(connection, uid, program, procedure, arguments)


def exchange(
    connection: socket.socket, uid: int, program: tuple[int, int, int], procedure: int, arguments: bytes
) -> bytes:
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


def flood(server: str, uid: int, handle: bytes, number: int) -> None:
    with connect(server, NFS[2]) as connection:
        for other in range(number):
            exchange(connection, uid + other, NFS, 1, handle)


def connections(server: str, number: int) -> int:
    waiting = [socket.socket() for _ in range(number)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex((server, NFS[2]))
    time.sleep(5)
    return sum(is_connected(one) for one in waiting)


def is_connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


def main() -> None:
    server, uid, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if what == "flood":
        flood(server, uid, opaque(bytes.fromhex(sys.argv[4])), int(sys.argv[5]))
        return
    if what == "connect":
        print(connections(server, int(sys.argv[4])))
        return
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
