# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's database: private, durable, and a session is closed once."""

import os
from pathlib import Path

from vinci.store.sqlite import Session, Store

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
