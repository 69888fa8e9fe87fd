# SPDX-License-Identifier: GPL-2.0-or-later
"""Members of the group read the declaration in force without the hashes of passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from vinci.model.load import parse
from vinci.node.without_hashes import without_hashes

EXAMPLES = Path(__file__).parents[3] / "examples"
HASH = "$argon2id$v=19$m=19456,t=2,p=1$lThGyg9zkkhLgYitJlW4gQ$SKiSZz2PMmOxHFBixq9h9sAwNwRfj/xScn6GxTuKBuc"


@pytest.mark.parametrize("name", ["hospital", "utility", "company"])
def test_an_example_keeps_all_but_its_hashes(name: str) -> None:
    text = (EXAMPLES / f"{name}.yaml").read_bytes()
    shown = without_hashes(text)
    whole, read = parse(text, name), parse(shown.encode(), name)
    assert "argon2" not in shown
    users = {
        user: person.model_copy(update={"password_hash": None}) for user, person in whole.infrastructure.users.items()
    }
    assert read.infrastructure == whole.infrastructure.model_copy(update={"users": users})
    assert read.source == whole.source


@pytest.mark.parametrize(
    "secret",
    [
        HASH,
        f'"{HASH}"',
        f"'{HASH}'",
        '"' + "".join(f"\\x{ord(character):02x}" for character in HASH) + '"',
        f'"{HASH[:40]}\\\n      {HASH[40:]}"',
        f">-\n      {HASH}",
        f"|\n      {HASH}\n",
        f"&a {HASH}",
        f"!!str {HASH}",
    ],
    ids=["plain", "quoted", "single", "escaped", "folded", "block", "literal", "anchor", "tag"],
)
@pytest.mark.parametrize("first", ["", "\ufeff", "# \u00e9\U0001f600\n"], ids=["", "mark", "wide"])
def test_however_it_is_written(secret: str, first: str) -> None:
    text = f"{first}users:\n  sally:\n    password_hash: {secret}\n    uid: 1\nname: x\n"
    shown = without_hashes(text.encode())
    assert not any(part in shown for part in ("lThGyg9z", "TuKBuc", "\\x42"))
    assert shown.splitlines().index("name: x") == text.splitlines().index("name: x")
    assert "    uid: 1\n" in shown


def test_also_in_a_comment_and_on_one_line() -> None:
    shown = without_hashes(f"users: {{sally: {{password_hash: {HASH!r}, uid: 7}}}}  # before: {HASH}\n".encode())
    assert "argon2" not in shown
    assert shown.index("uid: 7") == len("users: {sally: {password_hash: '', ") + len(HASH)


@pytest.mark.parametrize("broken", [b"a: [", b"password_hash: 'x", b"\x00", b"\xff: \xfe"])
def test_what_is_no_yaml_shows_nothing_that_could_be_a_secret(broken: bytes) -> None:
    assert without_hashes(broken + b"\npassword_hash: geheim\n").find("geheim") == -1
