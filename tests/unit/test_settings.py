# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings: what counts more, and that whatever cannot be used is one sentence which names file, key and mend."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinci.node import __main__ as agent
from vinci.settings import DEFAULT_IMAGES, DEFAULT_STATE, Key, Settings, SettingsError, main, parse, read_settings

VALUES = {Key.STATE: "/srv/vinci", Key.IMAGES: "/srv/images", Key.NODE: "ward7", Key.URI: "qemu:///system"}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def _snippet(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def _read(directory: Path, **environment: str) -> Settings:
    return read_settings({"VINCI_CONFIG": str(directory), **environment})


def test_without_any_the_defaults_count(directory: Path) -> None:
    assert _read(directory) == Settings(DEFAULT_STATE, DEFAULT_IMAGES, None, None)


def test_later_snippets_count_more_and_the_environment_most(directory: Path) -> None:
    _snippet(directory, "50-ward.toml", 'node = "ward7"\nstate = "/srv/later"\n')
    _snippet(directory, "10-site.toml", 'state = "/srv/vinci"\nuri = "qemu:///system"\nimages = "/srv/images"\n')
    _snippet(directory, "20-other.conf", "this is no snippet")
    _snippet(directory, ".30-draft.toml", "nor is this")
    assert _read(directory) == Settings(Path("/srv/later"), Path("/srv/images"), "ward7", "qemu:///system")
    over = _read(directory, VINCI_STATE="/mnt", VINCI_NODE="ward8", VINCI_URI="", VINCI_IMAGES="/")
    assert over == Settings(Path("/mnt"), Path("/"), "ward8", "qemu:///system")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stat = 1", r"a\.toml: there is no setting 'stat', only state, images, node, uri"),
        ("state = 1", r'a\.toml: state has to be a string: state = "…"'),
        ("node = ['n1']", r"a\.toml: node has to be a string"),
        ("[state]\nnode = 'n1'", r"a\.toml: state has to be a string"),
        ("state = ''", r"a\.toml: state is empty"),
        ('uri = "a\\u0000b"', r"a\.toml: uri is empty or holds what cannot be printed"),
        ("images = 'images'", r"a\.toml: images has to be an absolute path, and 'images' is none"),
        ("node = '../n1'", r"a\.toml: node has to be a node's name \(a-z, 0-9, -\), and '\.\./n1' is none"),
        ("state", r"a\.toml is no TOML: Expected '='"),
        ("a = " + "[" * 30_000, r"a\.toml is no TOML: "),
        ("#" * 70_000, r"a\.toml is longer than 65536 bytes"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_no_setting_names_file_and_key(directory: Path, text: str, told: str) -> None:
    _snippet(directory, "a.toml", text)
    with pytest.raises(SettingsError, match=told) as failed:
        _read(directory)
    assert "\n" not in str(failed.value)


def test_a_variable_is_checked_like_a_snippet(directory: Path) -> None:
    with pytest.raises(SettingsError, match=r"VINCI_NODE has to be a node's name"):
        _read(directory, VINCI_NODE="a/b")


def test_a_directory_that_was_named_has_to_be_there(directory: Path) -> None:
    with pytest.raises(SettingsError, match=r"VINCI_CONFIG: there is no directory /.*/missing"):
        _read(directory / "missing")
    with pytest.raises(SettingsError, match="VINCI_CONFIG: 'conf' is no absolute path"):
        read_settings({"VINCI_CONFIG": "conf"})
    with pytest.raises(SettingsError, match="cannot be read: Not a directory"):
        _read(_snippet(directory, "a.toml", ""))


def test_nothing_configured_is_no_error(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    monkeypatch.setattr("vinci.settings.DIRECTORY", directory / "missing")
    assert read_settings({}).state == DEFAULT_STATE


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_snippet_that_others_may_write_is_refused(directory: Path, mode: int) -> None:
    path = _snippet(directory, "a.toml", "state = '/srv/vinci'")
    path.chmod(mode)
    with pytest.raises(SettingsError, match=r"a\.toml can be written by others, .*: chmod go-w it"):
        _read(directory)


def test_a_directory_in_which_others_may_put_a_snippet_is_refused(directory: Path) -> None:
    inner = directory / "conf.d"
    inner.mkdir()
    _snippet(inner, "a.toml", "")
    directory.chmod(0o777)
    with pytest.raises(SettingsError, match="can be written by others"):
        _read(inner)
    directory.chmod(0o1777)
    assert _read(inner).state == DEFAULT_STATE, "nobody replaces what is another's there"


@root_only
def test_what_belongs_to_another_is_refused_also_behind_a_link(directory: Path) -> None:
    path = _snippet(directory, "elsewhere", "state = '/srv/vinci'")
    os.chown(path, 65534, 65534)
    (directory / "a.toml").symlink_to(path)
    with pytest.raises(SettingsError, match=r"elsewhere belongs to UID 65534, .*: chown it to root"):
        _read(directory)


@root_only
def test_a_link_that_another_put_there_is_refused_wherever_it_leads(directory: Path) -> None:
    (directory / "conf.d").mkdir()
    _snippet(directory, "elsewhere", "state = '/srv/vinci'")
    (directory / "conf.d" / "a.toml").symlink_to(directory / "elsewhere")
    assert _read(directory / "conf.d").state == Path("/srv/vinci")
    os.chown(directory / "conf.d", 65534, 65534)
    with pytest.raises(SettingsError, match=r"conf\.d belongs to UID 65534"):
        _read(directory / "conf.d")


def test_what_is_no_file_is_refused_and_not_waited_for(directory: Path) -> None:
    os.mkfifo(directory / "a.toml", 0o644)
    with pytest.raises(SettingsError, match=r"a\.toml is no file"):
        _read(directory)
    (directory / "a.toml").unlink()
    (directory / "a.toml").symlink_to("missing")
    with pytest.raises(SettingsError, match=r"a\.toml cannot be read: No such file"):
        _read(directory)
    (directory / "a.toml").unlink()
    (directory / "a.toml").symlink_to("a.toml")
    with pytest.raises(SettingsError, match=r"a\.toml cannot be read: "):
        _read(directory)


WORDS = st.sampled_from(
    ["state", "images", "node", "uri", "=", '"/a"', "'n1'", "[", "]", "\n", "{", "1", '"""', "\\u", "."]
)


@given(st.binary(max_size=200) | st.lists(WORDS, max_size=20).map(lambda words: " ".join(words).encode()))
def test_a_broken_snippet_is_a_sentence_and_never_a_traceback(text: bytes) -> None:
    with contextlib.suppress(SettingsError):
        assert all(isinstance(key, Key) and value.isprintable() for key, value in parse(text, "a.toml").items())


@given(st.dictionaries(st.sampled_from(list(Key)), st.none(), max_size=4))
def test_what_is_a_setting_is_read(keys: dict[Key, None]) -> None:
    text = "".join(f'{key} = "{VALUES[key]}"\n' for key in keys)
    assert parse(text.encode(), "a.toml") == {key: VALUES[key] for key in keys}


def test_scripts_can_ask(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VINCI_CONFIG", str(directory))
    for key in Key:
        monkeypatch.delenv(key.variable, raising=False)
    path = _snippet(directory, "a.toml", 'state = "/srv/vinci"')
    assert main(["state"]) == main([]) == 0
    told = "state = /srv/vinci\nimages = /var/cache/vinci/images\nnode = \nuri = \n"
    assert capsys.readouterr().out == "/srv/vinci\n" + told
    assert main(["stat"]) == 2
    path.write_text("x")
    assert main([]) == 2
    assert "a.toml is no TOML" in capsys.readouterr().err


def test_an_agent_with_a_broken_configuration_says_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VINCI_CONFIG", str(directory))
    _snippet(directory, "a.toml", "nod = 'n1'")
    assert agent.main() == 2
    assert "a.toml: there is no setting 'nod'" in capsys.readouterr().err
