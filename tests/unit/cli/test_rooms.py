# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands are loaded when they are used: the list of them is right, and the quick ones load nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from vinci.cli.main import app
from vinci.cli.rooms import COMMANDS, load

SOURCES = Path(__file__).parents[3] / "src" / "vinci" / "cli"
LIBRARIES = ("aiohttp", "asyncssh", "drgn", "networkx", "numpy", "rich.progress", "setools")
HEAVY = LIBRARIES + tuple(f"vinci.{name}" for name in ("model", "policy", "plan", "images", "store", "vmm"))
LOADED = """
import sys
from vinci.cli.main import main
sys.argv[1:] = {words!r}
try:
    main()
except SystemExit as ended:
    assert ended.code in (0, 3), ended.code
print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_each_command_what_its_own_help_says(name: str) -> None:
    room, told = COMMANDS[name]
    command = load(name, room)
    assert command.name == name
    assert command.get_short_help_str(1000) == told
    listed = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert listed.get_short_help_str(60) == command.get_short_help_str(60)


def test_no_command_is_missing_in_the_list() -> None:
    registered = sum(path.read_text().count("    app.command(") for path in SOURCES.glob("*.py"))
    assert registered == len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_listed_and_has_help_of_its_own(name: str) -> None:
    assert f"\n  {name} " in CliRunner().invoke(app, ["--help"]).output
    told = CliRunner().invoke(app, [name, "-h"]).output
    assert f" {name} [OPTIONS]" in told
    assert "Example: vinci" in told


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["status"],
        ["audit", "--json"],
        ["metrics"],
        ["exec", "doctors-1", "--", "id"],
        ["login", "sally"],
        ["console", "x"],
    ],
    ids=lambda words: str(words[0]),
)
def test_what_is_used_often_loads_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    script = LOADED.format(words=words, heavy=HEAVY)
    environment = {"VINCI_STATE": str(tmp_path), "VINCI_CONFIG": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
