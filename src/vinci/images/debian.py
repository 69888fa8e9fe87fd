# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages: where this machine's apt gets them from, which versions it would take, and root trees made of them.

Mirrors, proxies and keys are those of the machine's own apt configuration; no host is named here.
"""

from __future__ import annotations

import re
from pathlib import Path

from vinci.images.run import ImageError, run
from vinci.images.spec import EXCLUDED_PATHS

SUITE = "bookworm"
_ACQUIRE = re.compile(r'Acquire::(http|https|Retries|Check-|Languages|Queue|ForceIPv)[^ ]* "[^"]*";')
_INST = re.compile(r"^Inst (\S+) \((\S+) ")


def sources() -> str:
    """The lines of a sources.list with the Debian 12 mirrors that this machine's apt knows.

    Raises ImageError when it has none (`apt-get update` was never run).
    """
    form = "deb $(SITE) $(RELEASE) $(COMPONENT)"
    lines = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages", "Origin: Debian"]).splitlines()
    ours = sorted({line for line in lines if line.split()[2].split("-")[0] == SUITE})
    if not ours:
        raise ImageError(f"apt knows no Debian {SUITE} mirror: run apt-get update")
    return "\n".join(ours) + "\n"


def acquire_options() -> str:
    """This machine's apt options about fetching (proxies, dates, retries), as the text of an apt.conf."""
    lines = run(["apt-config", "dump"]).splitlines()
    return "".join(f"{line}\n" for line in lines if _ACQUIRE.fullmatch(line))


def resolve(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions that apt would install into an empty root: package name -> version.

    Raises ImageError when a package is unknown.
    """
    simulate = ["apt-get", "-s", "-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=0"]
    text = run([*simulate, "-o", "Debug::NoLocking=1", "install", "?essential", *packages])
    found = (_INST.match(line) for line in text.splitlines())
    return {match[1]: match[2] for match in found if match}


def fetch(packages: dict[str, str], folder: Path, log: Path) -> tuple[Path, ...]:
    """Download packages (name -> version), verified by apt, into `folder`; returns the files in that order."""
    wanted = [f"{name}={version}" for name, version in packages.items()]
    run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *wanted], log=log, cwd=folder)
    return tuple(next(folder.glob(f"{name}_*.deb")) for name in packages)


def unpack(package: Path, target: Path, log: Path) -> None:
    """Unpack a package's files below `target` without running any of its scripts."""
    run(["dpkg-deb", "-x", str(package), str(target)], log=log)


def make_root(packages: tuple[str, ...], target: Path, work: Path, log: Path) -> None:
    """Make a root tree of the essential packages and `packages`, without apt, in `target`. Needs root."""
    (work / "sources.list").write_text(sources())
    (work / "apt.conf").write_text(acquire_options() + 'APT::Install-Recommends "false";\n')
    dpkg_options = [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED_PATHS]
    run(
        [
            "mmdebstrap",
            "--mode=root",
            "--variant=essential",
            "--format=directory",
            f"--include={','.join(packages)}",
            f"--aptopt={work / 'apt.conf'}",
            # the tree is thrown away when anything fails: no need to wait for the disk
            "--dpkgopt=force-unsafe-io",
            *dpkg_options,
            SUITE,
            str(target),
            str(work / "sources.list"),
        ],
        log=log,
    )
