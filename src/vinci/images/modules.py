# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel modules an image needs: dependencies read from the kernel package's own `modules.dep` data."""

from __future__ import annotations

from pathlib import Path


def module_name(path: Path | str) -> str:
    """The name the kernel uses: file name without suffix, dashes as underscores."""
    return Path(path).name.removesuffix(".ko").replace("-", "_")


def dependency_closure(modules_dep: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The paths of `wanted` and of all they depend on, each after what it needs; names may be dashed or not.

    `modules_dep` is the text of depmod's modules.dep ("a.ko: b.ko c.ko"). Raises KeyError for a module that is not
    in it, such as one that this kernel has built in.
    """
    needs: dict[str, tuple[str, tuple[str, ...]]] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[module_name(path)] = (path, tuple(module_name(need) for need in rest.split()))

    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        path, requirements = needs[name]
        if path in ordered:
            return
        for requirement in requirements:
            visit(requirement)
        ordered[path] = None

    for name in wanted:
        visit(module_name(name))
    return tuple(ordered)
