# SPDX-License-Identifier: GPL-2.0-or-later
"""This machine's settings: snippets of TOML in /etc/vinci/conf.d, and the environment's VINCI_… over them.

The snippets are read in the order of their names, a later one counts more. Whatever is not understood is an error, and
so is a snippet that others than root could have written: settings decide where root writes. `python -m vinci.settings
[KEY]` prints what counts.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DIRECTORY = Path("/etc/vinci/conf.d")
DEFAULT_STATE = Path("/var/lib/vinci")
DEFAULT_IMAGES = Path("/var/cache/vinci/images")
MAX_BYTES = 64 * 1024
_CONFIG = "VINCI_CONFIG"
NODE_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
USAGE = 2


class SettingsError(Exception):
    """A setting cannot be used: one sentence that names the file or variable, the key, and what would be right."""


class Key(StrEnum):
    """A setting's name in a snippet."""

    STATE = "state"
    IMAGES = "images"
    NODE = "node"
    URI = "uri"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"VINCI_{self.value.upper()}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What counts. `node` is the name of this machine's node, `uri` libvirt's where the node declares none."""

    state: Path
    images: Path
    node: str | None
    uri: str | None


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this machine, read anew.

    Args:
        environment: VINCI_CONFIG names another directory of snippets than /etc/vinci/conf.d.

    Raises:
        SettingsError: one cannot be used.
    """
    return combine([parse(_read(path), str(path)) for path in _snippets(environment.get(_CONFIG))], environment)


def _snippets(named: str | None) -> list[Path]:
    """The files of the directory that was named, else of the usual one, in the order in which they are read."""
    if named and not Path(named).is_absolute():
        raise SettingsError(f"{_CONFIG}: {named!r} is no absolute path")
    directory = Path(named) if named else DIRECTORY
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".toml" and path.name[0] != ".")
    except FileNotFoundError:
        if not named:
            return []  # nothing is configured
        raise SettingsError(f"{_CONFIG}: there is no directory {named}") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"the configuration in {directory} cannot be read: {_reason(error)}") from None


def _read(path: Path) -> bytes:
    """The text of a snippet, bounded."""
    try:
        file, directory = path.resolve(strict=True), path.parent.resolve()  # a link: where it leads, where it lies
        for each in dict.fromkeys((*file.parents, file, *directory.parents, directory)):
            _check_owner(each, each.stat())
        if not file.is_file():  # a FIFO would keep the reader waiting
            raise SettingsError(f"{path} is no file")
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, RuntimeError) as error:
        raise SettingsError(f"{path} cannot be read: {_reason(error)}") from None


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Only root, or whoever runs this, may write a snippet or put another one in its place."""
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsError(
            f"{path} belongs to UID {status.st_uid}, who could change the configuration: chown it to root"
        )
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX  # like /tmp: nobody replaces others' files
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        raise SettingsError(f"{path} can be written by others, who could change the configuration: chmod go-w it")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def parse(untrusted_text: bytes, name: str) -> dict[Key, str]:
    """The settings in a snippet.

    Raises:
        SettingsError: it is no TOML, or holds what is no setting. `name` is the file to complain about.
    """
    import tomllib  # most machines have no snippets

    if len(untrusted_text) > MAX_BYTES:
        raise SettingsError(f"{name} is longer than {MAX_BYTES} bytes")
    try:
        untrusted = tomllib.loads(untrusted_text.decode())
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{name} is no TOML: {error}") from None
    found: dict[Key, str] = {}
    for untrusted_key, value in untrusted.items():
        try:
            key = Key(untrusted_key)
        except ValueError:
            known = ", ".join(Key)
            raise SettingsError(f"{name}: there is no setting {untrusted_key[:40]!r}, only {known}") from None
        where = f"{name}: {key}"
        if not isinstance(value, str):
            raise SettingsError(f'{where} has to be a string: {key} = "…"')
        found[key] = _checked(key, value, where)
        if key in (Key.STATE, Key.IMAGES) and not Path(value).is_absolute():
            raise SettingsError(f"{where} has to be an absolute path, and {value[:80]!r} is none")
    return found


def combine(snippets: Iterable[Mapping[Key, str]], environment: Mapping[str, str]) -> Settings:
    """What counts: the environment before the snippets, a later snippet before an earlier one.

    Raises:
        SettingsError: a variable cannot be used, or a path leads nowhere.
    """
    values: dict[Key, str] = {}
    for snippet in snippets:
        values |= snippet
    for key in Key:
        if value := environment.get(key.variable):
            values[key] = _checked(key, value, key.variable)
    return Settings(
        _resolved(values.get(Key.STATE), DEFAULT_STATE),
        _resolved(values.get(Key.IMAGES), DEFAULT_IMAGES),
        values.get(Key.NODE),
        values.get(Key.URI),
    )


def _checked(key: Key, value: str, where: str) -> str:
    if not value or not value.isprintable():
        raise SettingsError(f"{where} is empty or holds what cannot be printed")
    if key is Key.NODE and not NODE_NAME.fullmatch(value):
        raise SettingsError(f"{where} has to be a node's name (a-z, 0-9, -), and {value[:80]!r} is none")
    return value


def _resolved(value: str | None, default: Path) -> Path:
    try:
        return (Path(value) if value is not None else default).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(f"{value}: {_reason(error)}") from None


def main(words: list[str]) -> int:
    """Print one setting, or all; exit status 0 done, 2 wrong usage or a setting that cannot be used."""
    try:
        keys = [Key(word) for word in words] or list(Key)
        settings = read_settings()
    except ValueError:
        print(f"usage: python -m vinci.settings [{'|'.join(Key)}]", file=sys.stderr)
        return USAGE
    except SettingsError as error:
        print(f"settings: {error}", file=sys.stderr)
        return USAGE
    for key in keys:
        value = getattr(settings, key) or ""
        print(value if words else f"{key} = {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
