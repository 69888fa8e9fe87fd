# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's audit: what was denied and what was changed, as JSON lines in STATE/audit.jsonl.

One record a line: `id` (number, unique on the node), `time` (ISO 8601, UTC), `severity`, `event`, `message` (one
sentence for a person) and what belongs to the event. Text that comes from guests is stored bounded and printable.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from vinci.node.printable import printable

_LOG = logging.getLogger(__name__)
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
    REQUEST_DENIED = "request-denied"
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
    VM_TRUSTED = "vm-trusted"
    VM_COMPROMISED = "vm-compromised"
    VM_UNCHECKED = "vm-unchecked"
    VM_QUARANTINED = "vm-quarantined"
    VM_RELEASED = "vm-released"
    CHECKER_FAILED = "checker-failed"
    RULES_REPLACED = "rules-replaced"
    GRANTS_REPLACED = "grants-replaced"
    API_DENIED = "api-denied"
    AGENT = "agent"
    PASSWORD = "password"
    OPERATION_FAILED = "operation-failed"
    RECORDS_LEFT_OUT = "records-left-out"


Value = str | int | float | bool | None


class Audit:
    """Appends records to the file and wakes those who follow."""

    def __init__(self, path: Path) -> None:
        """Open it for appending; numbering goes on after the last record.

        Raises:
            OSError: it cannot be opened.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._next = _last_id(path) + 1
        self._file = _open(path)
        self._torn = _ends_torn(path)
        self._rotations = 0
        self._unwritten = 0
        self._followers: set[asyncio.Event] = set()
        self.counts: Counter[Event] = Counter()

    def record(self, event: Event, severity: Severity, message: str, **fields: Value) -> None:
        """Write one record; it is on its way to the disk when this returns.

        A disk that is full does not stop the agent: what could not be written is counted, and told by a record as soon
        as there is room.
        """
        if self._unwritten:
            number, self._unwritten = self._unwritten, 0
            lost = f"{number} records of the audit were lost: its disk took no more"
            self._write(Event.OPERATION_FAILED, Severity.ERROR, lost, {"lost": number}, worth=number)
        self._write(event, severity, message, fields, worth=1)
        for follower in self._followers:
            follower.set()

    def _write(
        self, event: Event, severity: Severity, message: str, fields: Mapping[str, Value], *, worth: int
    ) -> None:
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
        # What was cut off by a crash or a full disk stays a line of its own, and this record whole.
        line = (b"\n" if self._torn else b"") + json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        try:
            if os.fstat(self._file).st_size > MAX_FILE_BYTES:
                self._rotate()
            self._torn = os.write(self._file, line) != len(line)
        except OSError:
            _LOG.exception("the audit takes no records")
            self._unwritten += worth
            return
        if self._torn:
            self._unwritten += worth

    async def follow(self, since: int) -> AsyncIterator[str]:
        """Records from number `since` on, then each new one as it comes, as JSON lines; slow takers miss none."""
        wake = asyncio.Event()
        self._followers.add(wake)
        last = since - 1
        try:
            while True:
                rotations = self._rotations
                for path in self._files(last + 1):
                    with path.open(encoding="utf-8", errors="replace") as file:
                        while rotations == self._rotations:
                            wake.clear()
                            for line in iter(file.readline, ""):
                                if (number := _id_of(line)) > last:
                                    last = number
                                    yield line.rstrip("\n")
                            if path != self._path:
                                break
                            if rotations == self._rotations:
                                await wake.wait()
                    if rotations != self._rotations:
                        break  # the files have other names now
        finally:
            self._followers.discard(wake)

    def past(self, since: int) -> Iterator[str]:
        """Records from number `since` on that are kept, oldest first."""
        for file in [path.open(encoding="utf-8", errors="replace") for path in self._files(since)]:
            with file:
                yield from (line.rstrip("\n") for line in file if _id_of(line) >= since)

    @property
    def next_id(self) -> int:
        """The number that the next record gets."""
        return self._next

    def _files(self, since: int) -> list[Path]:
        """The files that hold records from number `since` on, oldest first; the one in use is always the last."""
        rotated = [self._path.with_suffix(f".{number}.jsonl") for number in range(KEPT_FILES, 0, -1)]
        return [*(path for path in rotated if _last_id_in(path) >= since), self._path]

    def _rotate(self) -> None:
        for number in range(KEPT_FILES - 1, 0, -1):
            older = self._path.with_suffix(f".{number}.jsonl")
            if older.exists():
                older.replace(self._path.with_suffix(f".{number + 1}.jsonl"))
        self._path.replace(self._path.with_suffix(".1.jsonl"))
        full, self._file = self._file, _open(self._path)
        os.close(full)
        self._rotations += 1


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _ends_torn(path: Path) -> bool:
    """True when the last line was cut off by a crash."""
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"


def _bounded(text: str) -> str:
    return printable(text[:MAX_TEXT])


def _id_of(line: str) -> int:
    try:
        return int(json.loads(line)["id"])
    except (ValueError, KeyError, TypeError):
        return -1  # a line cut off by a crash


def _last_id(path: Path) -> int:
    return max(0, _last_id_in(path.with_suffix(".1.jsonl")), _last_id_in(path))


def _last_id_in(path: Path) -> int:
    """The number of a file's last record; -1 when it holds none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64 * 1024))
            return max((_id_of(line.decode(errors="replace")) for line in file), default=-1)
    except FileNotFoundError:
        return -1
