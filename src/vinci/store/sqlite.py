# SPDX-License-Identifier: GPL-2.0-or-later
"""A node's durable state in SQLite: the declaration in force, keys and starts of its VMs, sessions, passwords,
incidents.

Every write is one transaction; with the write-ahead log a killed agent leaves either the old or the new state.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LOG = logging.getLogger(__name__)
KEPT_DECLARATIONS = 50
"""Versions that are kept, for whoever asks what was in force last week, and to tell what a new one changes."""
_WITHDRAWN = "withdrawn"
"""The fact that holds the version that a `down` withdrew."""

_NEWEST = 2**63 - 1
"""SQLite's largest integer."""

_SCHEMA = """
create table if not exists declaration (
    version integer primary key autoincrement, path text not null, text blob not null, accepted real not null);
create table if not exists key (name text primary key, private blob not null);
create table if not exists user_password (
    user text primary key, uid integer not null, hash text not null, initial text not null);
create table if not exists session (
    id text primary key, user text not null, community text not null, vm text not null, started real not null,
    purpose text not null);
create table if not exists incident (
    vm text primary key, response text not null, began real not null, findings text not null);
create table if not exists start (vm text primary key, given text not null);
create table if not exists fact (name text primary key, value text not null);
"""


@dataclass(frozen=True, slots=True)
class StoredDeclaration:
    """A declaration that was accepted: the file's path as the administrator named it, and its bytes."""

    version: int
    path: str
    text: bytes
    accepted: float


@dataclass(frozen=True, slots=True)
class Session:
    """A user logged in to a community's APP-VM; while it lasts, the FS-VMs know the pair (VM, user)."""

    id: str
    user: str
    community: str
    vm: str
    started: float
    purpose: str


@dataclass(frozen=True, slots=True)
class Incident:
    """A VM that was found compromised, and was not released since: its response stays in force."""

    vm: str
    response: str
    """A `vinci.model.infrastructure.Response`, as declared when it was found."""
    began: float
    findings: str
    """What was found in it, as JSON."""


class Store:
    """The database of one node. Used from the agent's event loop only."""

    def __init__(self, path: Path) -> None:
        """Open or create it.

        Raises:
            sqlite3.Error: the file is not a database of ours.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        # Private from its first moment: it will hold private keys and password hashes.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None)
        path.chmod(0o600)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.executescript(_SCHEMA)
        self._ended: set[str] = set()

    def declaration(self) -> StoredDeclaration | None:
        """The declaration in force; None after a `down`."""
        last = self.former()
        return None if last is None or self.fact(_WITHDRAWN) == str(last.version) else last

    def former(self, before: int | None = None) -> StoredDeclaration | None:
        """The newest kept declaration, in force or not; with `before`, the newest of a lower version."""
        columns = "select version, path, text, accepted from declaration"
        query = f"{columns} where version < ? order by version desc limit 1"
        row = self._db.execute(query, (_NEWEST if before is None else before,)).fetchone()
        return StoredDeclaration(*row) if row else None

    def accept(self, path: str, text: bytes, now: float) -> int:
        """Put a declaration in force; its version number."""
        cursor = self._db.execute("insert into declaration (path, text, accepted) values (?, ?, ?)", (path, text, now))
        assert cursor.lastrowid is not None
        self._db.execute("delete from declaration where version <= ?", (cursor.lastrowid - KEPT_DECLARATIONS,))
        return cursor.lastrowid

    def withdraw(self) -> None:
        """No declaration is in force from now on (`down`); keys, passwords and disks stay, and what was declared.

        The disks are read under the next declaration: what it opens is compared with the one that filled them.
        """
        last = self.former()
        if last is not None:
            self.set_fact(_WITHDRAWN, str(last.version))

    def key(self, name: str) -> bytes | None:
        """A private key by its name."""
        row = self._db.execute("select private from key where name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else None

    def set_key(self, name: str, private: bytes) -> None:
        """Keep a private key."""
        self._db.execute("insert or replace into key values (?, ?)", (name, private))

    def password(self, user: str, uid: int, initial: str | None) -> str | None:
        """The argon2 hash of a user's password.

        Args:
            user: whose.
            uid: the user's global UID. What was set holds for the one who has it, and for nobody else of that name.
            initial: the hash in the declaration, None without one. What was set holds until the declaration has
                another one: so an administrator gives a user a new initial password.
        """
        query = "select hash from user_password where user = ? and uid = ? and initial = ?"
        row = self._db.execute(query, (user, uid, initial or "")).fetchone()
        return str(row[0]) if row else initial

    def adopt_passwords(self, uids: Mapping[str, int]) -> None:
        """Passwords that a version set which knew no UIDs are of those who have the names now; of others, nobody's."""
        if not self._db.execute("select 1 from sqlite_master where name = 'password'").fetchone():
            return
        rows = self._db.execute("select user, hash, initial from password").fetchall()
        known = [(user, uids[user], password_hash, initial) for user, password_hash, initial in rows if user in uids]
        self._db.execute("begin immediate")
        self._db.executemany("insert or ignore into user_password values (?, ?, ?, ?)", known)
        self._db.execute("drop table password")
        self._db.execute("commit")

    def set_password(self, user: str, uid: int, password_hash: str, initial: str | None) -> None:
        """Keep the argon2 hash of a password that was set, and the declaration's hash that it replaces."""
        row = (user, uid, password_hash, initial or "")
        self._db.execute("insert or replace into user_password values (?, ?, ?, ?)", row)

    def sessions(self) -> list[Session]:
        """All open sessions, oldest first."""
        rows = self._db.execute("select id, user, community, vm, started, purpose from session order by started, id")
        return [Session(*row) for row in rows if row[0] not in self._ended]

    def open_session(self, session: Session) -> None:
        """Record a login."""
        self._db.execute(
            "insert into session values (?, ?, ?, ?, ?, ?)",
            (session.id, session.user, session.community, session.vm, session.started, session.purpose),
        )

    def close_session(self, session_id: str) -> bool:
        """Record a log-out; False when the session was closed before.

        It is closed from now on even when the disk takes no more: `tidy` then removes it as soon as it can.
        """
        if not self.is_open(session_id):
            return False
        self._ended.add(session_id)
        self.tidy()
        return True

    def tidy(self) -> None:
        """Remove closed sessions that could not be removed when they were closed."""
        for session_id in sorted(self._ended):
            try:
                self._db.execute("delete from session where id = ?", (session_id,))
            except sqlite3.OperationalError:
                _LOG.exception("the end of a session is not on the disk yet")
                return
            self._ended.discard(session_id)

    def is_open(self, session_id: str) -> bool:
        """True while the session has not been closed."""
        found = self._db.execute("select 1 from session where id = ?", (session_id,)).fetchone()
        return found is not None and session_id not in self._ended

    def incidents(self) -> list[Incident]:
        """VMs that were found compromised and not released since, by name."""
        rows = self._db.execute("select vm, response, began, findings from incident order by vm")
        return [Incident(*row) for row in rows]

    def open_incident(self, incident: Incident) -> None:
        """Record that a VM is compromised. A VM that has an incident keeps it, and gets its findings."""
        self._db.execute(
            "insert into incident values (?, ?, ?, ?) on conflict (vm) do update set findings = excluded.findings",
            (incident.vm, incident.response, incident.began, incident.findings),
        )

    def close_incident(self, vm: str) -> bool:
        """Record a release; False when the VM had no incident."""
        return self._db.execute("delete from incident where vm = ?", (vm,)).rowcount > 0

    def starts(self) -> dict[str, str]:
        """What each VM was last started with and given since, as JSON, by the VM's name."""
        return {str(vm): str(given) for vm, given in self._db.execute("select vm, given from start")}

    def set_start(self, vm: str, given: str) -> None:
        """Keep what a VM was started with and given since, in place of what was kept before."""
        self._db.execute("insert or replace into start values (?, ?)", (vm, given))

    def fact(self, name: str) -> str | None:
        """A remembered fact."""
        row = self._db.execute("select value from fact where name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def set_fact(self, name: str, value: str) -> None:
        """Remember a fact."""
        self._db.execute("insert or replace into fact values (?, ?)", (name, value))

    def close(self) -> None:
        """Close the database."""
        self._db.close()
