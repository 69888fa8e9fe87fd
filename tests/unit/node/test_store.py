# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's database: private, durable, and a session is closed once."""

import contextlib
import os
import sqlite3
from pathlib import Path

from vinci.store.sqlite import KEPT_DECLARATIONS, Incident, Session, Store

SESSION = Session("s1", "sally", "nurses", "nurses-1", 1.0, "login")


def test_nobody_else_may_read_the_database_or_its_log(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        store = Store(tmp_path / "node.db")
        store.set_key("k", b"secret")
    finally:
        os.umask(previous)
    assert {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {
        "node.db": 0,
        "node.db-wal": 0,
        "node.db-shm": 0,
    }
    store.close()


def test_a_session_is_closed_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "node.db")
    store.open_session(SESSION)
    assert store.is_open("s1")
    assert store.close_session("s1")
    assert not store.is_open("s1")
    assert not store.close_session("s1")
    store.close()


def test_what_was_written_is_there_without_a_close(tmp_path: Path) -> None:
    first = Store(tmp_path / "node.db")
    first.open_session(SESSION)
    first.accept("f.yaml", b"x", 1.0)
    again = Store(tmp_path / "node.db")
    assert again.sessions() == [SESSION]
    declaration = again.declaration()
    assert declaration is not None
    assert declaration.text == b"x"
    first.close()
    again.close()


def test_a_session_that_ends_while_the_disk_is_full_has_ended(tmp_path: Path) -> None:
    store = Store(tmp_path / "node.db")
    store.open_session(SESSION)
    (pages,) = store._db.execute("pragma page_count").fetchone()
    store._db.execute(f"pragma max_page_count = {pages}")
    with contextlib.suppress(sqlite3.OperationalError):  # fill the file to its last byte
        while True:
            store.set_key(os.urandom(8).hex(), bytes(64))
    store._db.execute("pragma query_only = on")  # nor may anything be removed
    assert store.close_session("s1")
    assert store.sessions() == []
    assert not store.is_open("s1")
    assert not store.close_session("s1")
    store._db.execute("pragma query_only = off")
    store.tidy()
    store.close()
    again = Store(tmp_path / "node.db")
    assert again.sessions() == []
    again.close()


def test_a_password_holds_until_the_declaration_has_another_initial_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "node.db")
    assert store.password("sally", 20004, "initial") == "initial"
    store.set_password("sally", 20004, "own", "initial")
    assert store.password("sally", 20004, "initial") == "own"
    assert store.password("sally", 20004, "another") == "another"
    assert store.password("sven", 20005, None) is None
    store.set_password("sven", 20005, "own", None)
    assert store.password("sven", 20005, None) == "own"
    assert store.password("sven", 20006, None) is None  # another person of that name
    store.close()


def test_passwords_of_a_store_that_knew_no_uids_are_kept(tmp_path: Path) -> None:
    """Or everybody's initial password would be right again."""
    with contextlib.closing(sqlite3.connect(tmp_path / "node.db")) as older:
        older.execute("create table password (user text primary key, hash text not null, initial text not null)")
        older.executemany("insert into password values (?, ?, ?)", [("sally", "own", "initial"), ("gone", "x", "")])
        older.commit()
    store = Store(tmp_path / "node.db")
    for _ in range(2):
        store.adopt_passwords({"sally": 20004, "sven": 20005})
        assert store.password("sally", 20004, "initial") == "own"
    store.adopt_passwords({"gone": 20006})
    assert store.password("gone", 20006, None) is None
    store.close()


def test_old_declarations_are_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path / "node.db")
    versions = [store.accept("f.yaml", b"%d" % number, 1.0) for number in range(3 * KEPT_DECLARATIONS)]
    (kept,) = store._db.execute("select count(*) from declaration").fetchone()
    assert kept == KEPT_DECLARATIONS
    last = store.declaration()
    assert last is not None
    assert last.version == versions[-1]
    store.close()


def test_a_withdrawn_declaration_is_not_in_force_and_still_known(tmp_path: Path) -> None:
    """`down` keeps the disks: the next declaration is compared with the one that filled them."""
    store = Store(tmp_path / "node.db")
    store.withdraw()
    assert store.declaration() is None
    first, second = store.accept("a.yaml", b"a", 1.0), store.accept("b.yaml", b"b", 2.0)
    store.withdraw()
    store.close()
    again = Store(tmp_path / "node.db")
    assert again.declaration() is None
    last = again.former()
    assert last is not None
    assert (last.version, last.text) == (second, b"b")
    before = again.former(second)
    assert before is not None
    assert before.version == first
    assert again.former(first) is None
    assert again.accept("b.yaml", b"b", 3.0) > second
    assert again.declaration() == again.former()
    again.close()


def test_an_incident_lasts_until_it_is_closed_and_gets_what_is_found_later(tmp_path: Path) -> None:
    store = Store(tmp_path / "node.db")
    store.open_incident(Incident("sales-1", "quarantine", 5.0, "[1]"))
    store.open_incident(Incident("sales-1", "alert", 6.0, "[2]"))
    store.close()
    again = Store(tmp_path / "node.db")
    assert again.incidents() == [Incident("sales-1", "quarantine", 5.0, "[2]")]
    assert again.close_incident("sales-1")
    assert not again.close_incident("sales-1")
    again.close()
