# SPDX-License-Identifier: GPL-2.0-or-later
"""Generates infrastructure files of any size, valid and without leaks, the same each time."""

from __future__ import annotations

LEVELS = 8
CATEGORIES = 64
SERVERS = 4


def big_file(vms: int, *, flows_per_vm: float = 0.5) -> str:
    """The text of a file with `vms` APP-VMs, as many users, a tenth of that communities, a fifth of that shares."""
    communities, shares, flows = max(2, vms // 10), max(2, vms // 5), int(vms * flows_per_vm)
    lines = ["vinci: 1", "name: big", "labels:"]
    lines.append("  levels: [" + ", ".join(f"l{number}" for number in range(LEVELS)) + "]")
    lines.append("  categories: [" + ", ".join(f"c{number}" for number in range(CATEGORIES)) + "]")
    lines.append("communities:")
    lines += [_community(number, vms // communities) for number in range(communities)]
    lines.append("users:")
    lines += [_user(number, communities) for number in range(vms)]
    lines.append("file_servers:")
    lines += [f"  fs{number}: {{}}" for number in range(SERVERS)]
    lines.append("shares:")
    lines += [line for number in range(shares) for line in _share(number, communities)]
    lines.append("flows:")
    lines += [_flow(number, communities) for number in range(flows)]
    lines.append("nodes:\n  n1: {}\n")
    return "\n".join(lines)


def _label(community: int) -> str:
    return f"{{level: l{community % LEVELS}, categories: [c{community % CATEGORIES}]}}"


def _community(number: int, vms: int) -> str:
    return f"  com{number}:\n    label: {_label(number)}\n    app_vms: {{count: {vms}}}"


def _user(number: int, communities: int) -> str:
    digest = f"$argon2id$v=19$m=19456,t=2,p=1$lThGyg9zkkhLgYitJlW4gQ$SKiSZz2PMmOxHFBixq9h9sAwNwRfj/xScn6Gx{number:06}"
    community = f"com{number % communities}"
    lines = [f"uid: {2000 + number}", f"communities: {{{community}: {{}}}}", f"password_hash: {digest}"]
    return "\n".join([f"  user{number}:", *("    " + line for line in lines)])


def _share(number: int, communities: int) -> list[str]:
    owner = number % communities
    # Labels repeat with the larger of the two periods: a reader with the same label exists when there are enough.
    reader = (owner + max(LEVELS, CATEGORIES)) % communities
    access = f"com{owner}: [read, write]"
    if reader != owner and reader % CATEGORIES == owner % CATEGORIES and reader % LEVELS == owner % LEVELS:
        access += f", com{reader}: [read]"
    return [
        f"  share{number}:",
        f"    server: fs{number % SERVERS}",
        f"    label: {_label(owner)}",
        f"    mount: /shares/share{number}",
        f"    access: {{{access}}}",
    ]


def _flow(number: int, communities: int) -> str:
    source = number % communities
    to = (source + 1 + number // communities) % communities
    reason = "a generated flow between two communities"
    trust = f"upward: true, trusted: true, reason: {reason}"
    return f"  - {{from: com{source}, to: com{to}, service: tcp/{8000 + number // communities}, {trust}}}"
