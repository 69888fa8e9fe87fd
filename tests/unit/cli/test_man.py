# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual page tells of every command and option, and nothing in a help text is taken for a request of man(7)."""

from __future__ import annotations

import pytest

from vinci.cli.man import _text, page
from vinci.cli.rooms import COMMANDS, load

REQUESTS = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_section_with_all_its_options(name: str) -> None:
    (section,) = [each for each in page().split("\n.SS ") if each.split()[0] == name]
    for option in load(name, COMMANDS[name][0]).params:
        if option.param_type_name == "option":
            assert option.opts[0].replace("-", "\\-") in section


def test_only_our_own_lines_are_requests() -> None:
    lines = page().splitlines()
    assert {line.split()[0] for line in lines if line.startswith(".")} == REQUESTS
    assert not any(line.startswith("'") or not line for line in lines)


@pytest.mark.parametrize("text", [".TH x", "'br", "a\\fB b", "x\n.so /etc/passwd"])
def test_text_is_text(text: str) -> None:
    told = _text(text)
    assert not told.startswith((".", "'"))
    assert "\n" not in told
    assert "\\f" not in told
