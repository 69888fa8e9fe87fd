# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's audit: what was denied and what was changed, as JSON lines in STATE/audit.jsonl.

One record a line: `id` (number, unique on the node), `time` (ISO 8601, UTC), `severity`, `event`, `message` (one
sentence for a person) and what belongs to the event. Text that comes from guests is stored bounded and printable.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from vinci.node.channel import printable

MAX_TEXT = 1000
MAX_FILE_BYTES = 64 * 1024 * 1024
KEPT_FILES = 4


class Severity(StrEnum):
    """How much an event matters (names of RFC 5424)."""

    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    ERROR = "error"
    ALERT = "alert"


class Event(StrEnum):
    """What happened."""

    PACKET_DROPPED = "packet-dropped"
    FLOW_DENIED = "flow-denied"
    FILE_DENIED = "file-denied"
    LOGIN_DENIED = "login-denied"
    LOGIN = "login"
    LOGOUT = "logout"
    ADMIN_EXEC = "admin-exec"
    DECLARATION = "declaration"
    DECLARATION_REFUSED = "declaration-refused"
    VM_STARTED = "vm-started"
    VM_STOPPED = "vm-stopped"
    VM_UNREACHABLE = "vm-unreachable"
    RULES_REPLACED = "rules-replaced"
    GRANTS_REPLACED = "grants-replaced"
    API_DENIED = "api-denied"
    AGENT = "agent"
    PASSWORD = "password"
    OPERATION_FAILED = "operation-failed"


Value = str | int | float | bool | None


class Audit:
    """Appends records to the file and hands them to followers."""

    def __init__(self, path: Path) -> None:
        """Open it for appending; numbering goes on after the last record."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._next = _last_id(path) + 1
        self._file = path.open("a", encoding="utf-8")
        path.chmod(0o640)
        self._followers: set[asyncio.Queue[str]] = set()
        self.counts: Counter[Event] = Counter()
        self.on_record: Callable[[dict[str, Value]], None] = lambda _record: None

    def record(self, event: Event, severity: Severity, message: str, **fields: Value) -> None:
        """Write one record; it is on its way to the disk when this returns."""
        entry: dict[str, Value] = {
            "id": self._next,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "severity": severity.value,
            "event": event.value,
            "message": _bounded(message),
            **{key: _bounded(value) if isinstance(value, str) else value for key, value in fields.items()},
        }
        self._next += 1
        self.counts[event] += 1
        line = json.dumps(entry, ensure_ascii=False)
        self._file.write(line + "\n")
        self._file.flush()
        if self._file.tell() > MAX_FILE_BYTES:
            self._rotate()
        for queue in self._followers:
            if not queue.full():
                queue.put_nowait(line)
        self.on_record(entry)

    async def follow(self, since: int) -> AsyncIterator[str]:
        """Records from number `since` on, then each new one as it comes, as JSON lines."""
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=10_000)
        self._followers.add(queue)
        try:
            last = since - 1
            for line in self.past(since):
                last = json.loads(line)["id"]
                yield line
            while True:
                line = await queue.get()
                if json.loads(line)["id"] > last:
                    yield line
        finally:
            self._followers.discard(queue)

    def past(self, since: int) -> list[str]:
        """Records from number `since` on that lie in the current file."""
        with self._path.open(encoding="utf-8") as file:
            return [line.rstrip("\n") for line in file if _id_of(line) >= since]

    @property
    def next_id(self) -> int:
        """The number that the next record gets."""
        return self._next

    def _rotate(self) -> None:
        self._file.close()
        for number in range(KEPT_FILES - 1, 0, -1):
            older = self._path.with_suffix(f".{number}.jsonl")
            if older.exists():
                older.replace(self._path.with_suffix(f".{number + 1}.jsonl"))
        self._path.replace(self._path.with_suffix(".1.jsonl"))
        self._file = self._path.open("a", encoding="utf-8")
        self._path.chmod(0o640)


def _bounded(text: str) -> str:
    return printable(text[:MAX_TEXT])


def _id_of(line: str) -> int:
    try:
        return int(json.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        return -1  # a line cut off by a crash


def _last_id(path: Path) -> int:
    for candidate in (path, path.with_suffix(".1.jsonl")):
        try:
            with candidate.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 64 * 1024))
                found = max((_id_of(line.decode(errors="replace")) for line in file), default=-1)
        except FileNotFoundError:
            continue
        if found >= 0:
            return found
    return 0
