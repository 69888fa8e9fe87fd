#!/usr/bin/python3 -IS
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's end of the control channel: joins the virtio-serial port to an `sshd -i`.

A virtio-serial port is no socket: while the host's end is closed reads return nothing at once and poll(2) never blocks,
and a new connection of the host looks like more bytes of the old one. So this program
 - waits by edge-triggered epoll(7), which the port's driver wakes when the host connects, disconnects or sends;
 - keeps one sshd started and waiting, so that a connection is answered without the time that sshd takes to start;
 - ends the session when the host disconnects;
 - takes "SSH-2.0-" at the beginning of a chunk for the first bytes of a new connection, whatever the port says of its
   state: that travels on another queue and may be late, and a quick reconnection may not be seen at all;
 - hangs up on whatever an ended session left running, as a terminal does (nohup survives).

It imports only what the interpreter has built in: the VM's start waits for it.

usage: channel PORT COMMAND [ARGUMENT...]
"""

import _signal  # type: ignore[import-not-found]  # `signal` would bring `enum`, and that half of the library
import _socket
import os
import select
import sys
import time

CGROUPS = "/sys/fs/cgroup"
LOG = "/run/vinci/sshd.log"
HELLO = b"SSH-2.0-"
CHUNK = 65536
"""The driver hands out one received buffer (a page) per read: a chunk never mixes two connections."""
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


def take(fd: int) -> bytes | None:
    """What can be read now: None when there is nothing, no bytes at the end of the stream."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def give(fd: int, data: bytes) -> bytes:
    """Write what can be written now; the rest of it. Raises OSError when the other side is gone."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            break
    return data


class Session:
    """One sshd, which waits for a connection or serves it. `ours` is our end of its standard streams."""

    def __init__(self, number: int, command: list[str]) -> None:
        self.group = f"{CGROUPS}/ssh.{os.getpid()}.{number}"
        self.started = time.monotonic()
        self.got_bytes = False
        """The host has sent something in this session."""
        self.used = False
        """Bytes went either way: what sshd has said is spent."""
        try:
            os.mkdir(self.group, 0o755)
        except OSError as error:
            print(error, file=sys.stderr)
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
        self.ours, end = ours.detach(), theirs.detach()
        if os.fork() == 0:
            self._become(end, command)
        os.close(end)
        os.set_blocking(self.ours, False)

    def _become(self, end: int, command: list[str]) -> None:
        """In the child: be sshd, in a session and a control group of its own."""
        try:
            with open(f"{self.group}/cgroup.procs", "wb", 0) as group:
                group.write(b"0")
        except OSError as error:
            print(error, file=sys.stderr)
        try:
            _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
            _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
            os.dup2(end, 0)
            os.dup2(end, 1)
            os.dup2(os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            os.setsid()
            os.execv(command[0], command)
        finally:
            os._exit(127)

    def end(self) -> None:
        """Close it and hang up every process that it left."""
        os.close(self.ours)
        try:
            with open(f"{self.group}/cgroup.procs", encoding="ascii") as group:
                processes = [int(line) for line in group]
        except OSError:
            processes = []
        for pid in processes:
            try:
                os.kill(pid, _signal.SIGHUP)
                os.kill(pid, _signal.SIGCONT)
            except ProcessLookupError:
                continue


def remove_empty_groups() -> None:
    """Of ended sessions; one that still holds a process (nohup) stays: rmdir(2) refuses."""
    for name in os.listdir(CGROUPS):
        if name.startswith("ssh."):
            try:
                os.rmdir(f"{CGROUPS}/{name}")
            except OSError:
                continue


class Joint:
    """The port, the session it is joined to, and what is on its way between them."""

    def __init__(self, port: str, command: list[str]) -> None:
        self.port = os.open(port, os.O_RDWR | os.O_NONBLOCK)
        self.command = command
        self.epoll = select.epoll()
        self.epoll.register(self.port, EDGES)
        self.state = select.poll()
        self.state.register(self.port, select.POLLOUT)
        self.greeted = False
        """A hello came before the port's state said that the host is there."""
        self.number = 0
        self.to_sshd = self.to_host = b""
        self.start()

    def start(self) -> None:
        """Have a fresh sshd wait."""
        self.number += 1
        self.to_sshd = self.to_host = b""
        remove_empty_groups()
        self.session = Session(self.number, self.command)
        self.epoll.register(self.session.ours, EDGES)

    def restart(self) -> None:
        """End the session and have a fresh sshd wait."""
        hopeless = not self.session.got_bytes and time.monotonic() - self.session.started < 1
        self.session.end()
        if hopeless:
            time.sleep(1)  # an sshd that cannot even start must not eat the processor
        self.start()

    def is_connected(self) -> bool:
        """True while the host's end of the port is open."""
        return not any(events & select.POLLHUP for _fd, events in self.state.poll(0))

    def discard_to_hello(self) -> bool:
        """Throw away what a connection that is gone has sent; True when a new one's hello came, which is kept."""
        chunk = self.to_sshd or take(self.port)
        while chunk:
            if chunk.startswith(HELLO):
                self.to_sshd = chunk
                return True
            chunk = take(self.port)
        self.to_sshd = b""
        return False

    def pump(self) -> bool:
        """Carry bytes both ways until neither side has more for now; False when sshd has ended."""
        while True:
            if not self.to_sshd:
                chunk = take(self.port)
                if not chunk:
                    break
                if self.session.got_bytes and chunk.startswith(HELLO):
                    self.restart()
                self.to_sshd = chunk
            self.session.got_bytes = self.session.used = True
            try:
                self.to_sshd = give(self.session.ours, self.to_sshd)
            except OSError:
                return False
            if self.to_sshd:
                break
        while True:
            if not self.to_host:
                chunk = take(self.session.ours)
                if not chunk:
                    return chunk is None
                self.to_host = chunk
            self.session.used = True
            try:
                self.to_host = give(self.port, self.to_host)
            except OSError:
                return True  # the host is gone: its disconnection is on the way
            if self.to_host:
                return True

    def step(self) -> None:
        """Wait for something to happen, and do what it asks for."""
        self.epoll.poll()
        connected = self.is_connected()
        if connected:
            self.greeted = False
        elif not self.greeted:
            if self.session.used:
                self.restart()
            self.greeted = self.discard_to_hello()
        if (connected or self.greeted) and not self.pump():
            self.restart()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def main(arguments: list[str]) -> None:
    """Join the port to the command for ever."""
    joint = Joint(arguments[1], arguments[2:])
    while True:
        joint.step()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(2)
    main(sys.argv)
