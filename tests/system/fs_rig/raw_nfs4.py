# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile NFSv4.1 client (RFC 8881) for the client VM: names what IDs it likes. Prints NFS status numbers.

raw_nfs4.py SERVER UID client NAME -> "0 CLIENT" or "STATUS"
raw_nfs4.py SERVER UID create-session CLIENT NUMBER -> "0 SESSION" or "STATUS"
raw_nfs4.py SERVER UID sequence SESSION NUMBER -> "STATUS"
raw_nfs4.py SERVER UID bind-connection|destroy-session SESSION -> "STATUS"
raw_nfs4.py SERVER UID destroy-client CLIENT -> "STATUS"
raw_nfs4.py SERVER UID open DIRECTORY_HANDLE NAME ACCESS DENY -> "STATUS"
"""

import os
import struct
import sys

from raw_nfs import NFS4, call, opaque

PUTFH, OPEN, BIND_CONNECTION, EXCHANGE_ID, CREATE_SESSION, DESTROY_SESSION = 22, 18, 41, 42, 43, 44
SEQUENCE, DESTROY_CLIENT, RECLAIM_COMPLETE = 53, 57, 58
CHANNEL = struct.pack(">IIIIIII", 0, 65536, 65536, 4096, 16, 8, 0)
SESSION_BYTES = 16


class RefusedError(Exception):
    """The status of a compound that was not done."""


class Connection:
    """What one client sends."""

    def __init__(self, server: str, uid: int) -> None:
        self.server, self.uid = server, uid

    def compound(self, *operations: tuple[int, bytes]) -> bytes:
        """The results, from the first one's on, without its number and status."""
        body = b"".join(struct.pack(">I", number) + arguments for number, arguments in operations)
        head = opaque(b"") + struct.pack(">II", 1, len(operations))
        reply = call(self.server, self.uid, NFS4, 1, head + body)
        (status,) = struct.unpack(">I", reply[:4])
        if status:
            raise RefusedError(status)
        return reply[20:]

    def client(self, name: str) -> str:
        arguments = bytes(8) + opaque(name.encode()) + struct.pack(">III", 0, 0, 0)
        return self.compound((EXCHANGE_ID, arguments))[:8].hex()

    def create_session(self, client: str, number: str) -> str:
        arguments = bytes.fromhex(client) + struct.pack(">II", int(number), 0) + 2 * CHANNEL
        return self.compound((CREATE_SESSION, arguments + struct.pack(">III", 0x40000000, 1, 0)))[:SESSION_BYTES].hex()

    def in_session(self, session: str, number: int, *operations: tuple[int, bytes]) -> None:
        arguments = bytes.fromhex(session) + struct.pack(">IIII", number, 0, 0, 1)
        self.compound((SEQUENCE, arguments), *operations)

    def sequence(self, session: str, number: str) -> None:
        self.in_session(session, int(number))

    def bind_connection(self, session: str) -> None:
        self.compound((BIND_CONNECTION, bytes.fromhex(session) + struct.pack(">II", 1, 0)))

    def destroy_session(self, session: str) -> None:
        self.compound((DESTROY_SESSION, bytes.fromhex(session)))

    def destroy_client(self, client: str) -> None:
        self.compound((DESTROY_CLIENT, bytes.fromhex(client)))

    def open(self, directory: str, name: str, access: str, deny: str) -> None:
        session = self.create_session(self.client(f"opener {os.getpid()}"), "1")
        self.in_session(session, 1, (RECLAIM_COMPLETE, bytes(4)))
        arguments = struct.pack(">III", 0, int(access), int(deny)) + bytes(8) + opaque(b"owner")
        arguments += struct.pack(">II", 0, 0) + opaque(name.encode())
        self.in_session(session, 2, (PUTFH, opaque(bytes.fromhex(directory))), (OPEN, arguments))


def main() -> None:
    connection = Connection(sys.argv[1], int(sys.argv[2]))
    try:
        answer = getattr(connection, sys.argv[3].replace("-", "_"))(*sys.argv[4:])
    except RefusedError as status:
        print(status)
    else:
        print(*(["0", answer] if answer else ["0"]))


main()
