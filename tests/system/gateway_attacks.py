# SPDX-License-Identifier: GPL-2.0-or-later
"""What attackers run in VMs against gateways and diodes: programs for python3 there, with their arguments."""

FRAGMENTS = """
import socket, struct, sys
target, request = sys.argv[1], bytes.fromhex(sys.argv[2])
client = socket.create_connection((target, 502), 10)
own, port = client.getsockname()
client.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR tells the sequence numbers
numbers = []
for queue in (2, 1):  # sent, received
    client.setsockopt(socket.IPPROTO_TCP, 20, queue)
    numbers.append(client.getsockopt(socket.IPPROTO_TCP, 21) & 0xFFFFFFFF)
client.setsockopt(socket.IPPROTO_TCP, 19, 0)
def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
ends = socket.inet_aton(own) + socket.inet_aton(target)
head = lambda check: struct.pack("!HHIIBBHHH", port, 502, *numbers, 5 << 4, 0x18, 502, check, 0)
segment = head(0) + request
segment = head(checksum(ends + struct.pack("!BBH", 0, 6, len(segment)) + segment)) + request
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
answers = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
for start in range(0, len(segment), 8):
    part = segment[start : start + 8]
    more = 0x2000 if start + 8 < len(segment) else 0
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), 4711, more | start // 8, 64, 6, 0) + ends
    raw.sendto(ip + part, (target, 0))
# The client's own kernel does not know of these bytes, and hands over no answer to them.
answers.settimeout(5)
try:
    while True:
        packet = answers.recv(2000)
        if packet[12:16] == socket.inet_aton(target) and packet[22:24] == port.to_bytes(2, "big"):
            said = packet[20 + (packet[32] >> 4) * 4 :]
            if said:
                print(said.hex())
                break
except TimeoutError:
    print("silent")
"""
"""TARGET REQUEST: the request in fragments of IP of 8 bytes, over an open connection; prints the answer."""

DIRECT = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def attempt(words):
    address, port, source = words.split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.settimeout(3)
        try:
            client.bind(("", int(source)))
            client.connect((address, int(port)))
            client.sendall(bytes.fromhex("0007000000060106000500ff"))
            return client.recv(300).hex() or "closed"
        except OSError:
            return "nothing"
with ThreadPoolExecutor(8) as pool:
    print(*pool.map(attempt, sys.argv[1:]))
"""
"""ADDRESS:PORT:SOURCE …: a write to each, from that port; prints what comes back."""

MANY = """
import errno, socket, struct, sys
target, number = sys.argv[1], int(sys.argv[2])
held = []
for count in range(number):
    client = socket.socket()
    client.setblocking(False)
    try:
        client.connect((target, 502))
    except BlockingIOError:
        pass
    held.append(client)
    if len(held) > 900:
        held.pop(0).close()
print(len(held))
"""
"""TARGET NUMBER: so many connections, most of them half open."""

CONNECTS = """
import select, socket, sys, time
clients, poll = [], select.poll()
for words in sys.argv[1:]:
    address, port = words.split(":")
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex((address, int(port)))
    poll.register(client, select.POLLOUT)
    clients.append(client)
deadline, ended = time.monotonic() + 3, set()
while time.monotonic() < deadline and len(ended) < len(clients):
    for number, _event in poll.poll(500):
        ended.add(number)
        poll.unregister(number)
for client in clients:
    fine = client.fileno() in ended and not client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    print("yes" if fine else "no")
"""
"""ADDRESS:PORT …: whether each can be connected to."""

LISTEN = """
import socket, struct
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(("0.0.0.0", 5140))
own.settimeout(60)
data, source = own.recvfrom(100)
print(data.decode(), source[0], flush=True)
for _ in range(5):  # an FW-VM records a burst of 20 packets of one source at most
    own.sendto(b"back", source)
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
# The alarm as it came: what an error of ICMP has to quote so that it belongs to it.
ends = socket.inet_aton(source[0]) + socket.inet_aton(OWN)
quoted = struct.pack("!BBHHHBBH", 0x45, 0, 20 + 8 + len(data), 0, 0x4000, 62, 17, 0) + ends
quoted += struct.pack("!HHHH", source[1], 5140, 8 + len(data), 0)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for kind, code in ((0, 0), (3, 1), (3, 3), (3, 4), (5, 1), (8, 0), (11, 0), (12, 0)):
    body = bytes(4) + (quoted if kind in (3, 5, 11, 12) else b"back")
    raw.sendto(bytes((kind, code)) + checksum(bytes((kind, code, 0, 0)) + body) + body, (source[0], 0))
for protocol in (4, 47, 132):
    socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol).sendto(b"back" * 5, (source[0], 0))
for port in (22, 80, 502, 5140, source[1]):
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex((source[0], port))
print("tried", flush=True)
"""
"""Takes one alarm and answers it in every way that root can."""

ALARM = """
import socket, sys, time
def received():
    with open("/proc/net/snmp") as file:
        names, numbers = [line.split() for line in file if line.startswith("Ip:")]
    return int(dict(zip(names, numbers))["InReceives"])
# A packet socket would tell more, and be found by introspection: this VM would be put into quarantine.
before = received()
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(("0.0.0.0", 5141))
own.sendto(b"alarm", (sys.argv[1], 5140))
time.sleep(float(sys.argv[2]))
print(f"heard {received() - before} packets" if received() != before else "silence")
"""
"""TARGET SECONDS: an alarm, and whether any packet of IP comes in after it."""

FLOOD = """
import socket, sys, time
target, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for count in range(number):
    own.sendto(b"flood", (target, port))
    time.sleep(0.002)
print("sent")
"""
"""TARGET PORT NUMBER: so many datagrams."""

INTERLEAVED = """
import socket, sys, time
target, first, second, write = sys.argv[1], *map(bytes.fromhex, sys.argv[2:])
a, b = (socket.create_connection((target, 502), 10) for _ in range(2))
for each in (a, b):
    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
a.sendall(first)
b.sendall(second)
print(b.recv(300).hex(), a.recv(300).hex())
a.sendall(write[:6])
b.sendall(write[6:])
print(a.recv(300).hex() or "closed", b.recv(300).hex() or "closed")
"""
"""TARGET READ READ WRITE: two connections at once, with one request each, then with half of a write each."""

HOLD = """
import os, socket, sys, time
target, request = sys.argv[1], bytes.fromhex(sys.argv[2])
client = socket.create_connection((target, 502), 10)
for _ in range(2):
    try:
        client.sendall(request)
        print(client.recv(300).hex() or "closed", flush=True)
    except OSError:
        print("closed", flush=True)
    while not os.path.exists("/run/go"):
        time.sleep(0.1)
"""
"""TARGET REQUEST: asks, and over the same connection again when /run/go is there."""

ICMP_ERRORS = """
import socket, struct, sys
device, *ends = sys.argv[1:]
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for end in ends:
    address, port = end.split(":")
    quoted = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0x4000, 63, 6, 0)
    quoted += socket.inet_aton(device) + socket.inet_aton(address) + struct.pack("!HHI", 502, int(port), 1)
    for kind, code, rest in ((3, 1, 0), (3, 3, 0), (3, 4, 68), (4, 0, 0), (5, 1, 0), (11, 0, 0), (12, 0, 0)):
        body = struct.pack("!I", rest) + quoted
        raw.sendto(bytes((kind, code)) + checksum(bytes((kind, code, 0, 0)) + body) + body, (device, 0))
print("sent")
"""
"""DEVICE ADDRESS:PORT …: every error of ICMP to the device, about its packets from port 502 to each of these."""

CAPTIVE = """
import os, signal, socket, sys
sys.path[:0] = ["/usr/lib/vinci", "/usr/lib/python3/dist-packages"]
from gateway.confine import confine
tries = {
    "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "list a folder": lambda: os.listdir("/"),
    "make a file": lambda: os.open("/tmp/captive", os.O_WRONLY | os.O_CREAT),
    "fork": os.fork,
    "run a program": lambda: os.execv("/usr/bin/true", ["true"]),
    "a datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "a local socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "another listener": lambda: LISTENER.listen(),
    "a signal": lambda: os.kill(os.getppid(), 0),
    "another user": lambda: os.setuid(os.getuid()),
}
LISTENER = socket.socket()
for confined in (False, True):
    for name, attempt in tries.items():
        child = os.fork()
        if not child:
            if confined:
                confine()
            try:
                attempt()
            except OSError:
                os._exit(1)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ended = {0: "done", -signal.SIGSYS: "killed"}.get(ended, ended)
        print("confined" if confined else "free", ended, name, sep=":")
"""
"""What the filter of system calls takes from a gateway: each attempt in a process of its own, without and with it."""

SHELL = """
try() { name=$1; shift; "$@" >/dev/null 2>&1 </dev/null && echo "$name"; }
try environment cat /run/vinci/env
try host-key cat /run/vinci/ssh_host_ed25519_key
try own-settings sh -c 'echo 20000 >>/run/vinci/gateways/20000'
try table sh -c 'echo x >>/run/vinci/gateways.table'
try inittab sh -c 'echo x >>/etc/inittab'
try program sh -c 'echo x >>/usr/lib/vinci/fw-gateway'
try init kill -9 1
try environment-of-init cat /proc/1/environ
try memory dd if=/dev/mem count=1
try disk dd if=/dev/vda count=1
try channel sh -c 'for port in /dev/virtio-ports/*; do : <>$port || exit 1; done'
try kernel-log dmesg
try rules /usr/sbin/nft list ruleset
try no-rules /usr/sbin/nft flush ruleset
try interface /usr/sbin/ip link set eth0 down
try route /usr/sbin/ip route add 10.99.0.0/16 via 127.0.0.1
try mount mount -t tmpfs none /mnt
try user-namespace unshare --user --map-root-user true
try net-namespace unshare --net true
try module /usr/sbin/modprobe tun
try setting sh -c 'echo 1 >/proc/sys/net/ipv4/conf/all/accept_redirects'
try hostname hostname other
try clock date -s 2001-01-01
try reboot reboot -f
try root setpriv --reuid=0 true
try other-user setpriv --reuid=20001 true
try capability setpriv --inh-caps=+net_admin --ambient-caps=+net_admin true
echo end
"""
"""What a shell as a gateway's user tries, without the filter of system calls: prints what it could do."""
