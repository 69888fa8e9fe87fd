# SPDX-License-Identifier: GPL-2.0-or-later
"""volatility3's end of the comparison in `volatility.py`, which starts this with a Python that has volatility3.

    volatility_worker.py RAM ISF TABLES SLIDE

All that volatility finds out by scanning is given: the memory, the symbols, the top page table, the slide. Then each
line of standard input names a plugin, which is run whole; answered by a line of JSON: milliseconds of processor time,
and rows or what went wrong.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any, ClassVar

from volatility3.framework import contexts, interfaces  # type: ignore[import-not-found]
from volatility3.framework.constants import architectures  # type: ignore[import-not-found] # noqa: F401
from volatility3.framework.layers import intel, physical  # type: ignore[import-not-found]
from volatility3.framework.symbols import linux  # type: ignore[import-not-found]
from volatility3.framework.symbols.linux.extensions import network  # type: ignore[import-not-found] # noqa: F401


class FiveLevels(intel.LinuxIntel32e):  # type: ignore[misc]
    """As QEMU's `-cpu max` has them; volatility3 itself stops at four."""

    _maxvirtaddr = 57
    _structure: ClassVar = [("page map layer 5", 9, False), *intel.LinuxIntel32e._structure]


def context_of(ram: str, isf: str, tables: int, slide: int) -> Any:
    """The memory, its address space and its symbols."""
    context = contexts.Context()
    context.config["base.location"] = f"file://{ram}"
    context.add_layer(physical.FileLayer(context, "base", "base"))
    context.config["space.memory_layer"] = "base"
    context.config["space.page_map_offset"] = tables
    context.config["space.kernel_virtual_offset"] = slide
    context.add_layer(FiveLevels(context, "space", "space", metadata={"os": "Linux"}))
    context.symbol_space.append(
        linux.LinuxKernelIntermedSymbols(context, "symbols", name="symbols", isf_url=f"file://{isf}")
    )
    contexts.Module.create(context, "kernel", "space", offset=slide, symbol_table_name="symbols")
    context.config["plugin.kernel"] = "kernel"
    return context


def rows_of(context: Any, name: str) -> int:
    """Run a plugin (`lsmod.Lsmod`); how many rows it gives."""
    module, _, kind = name.rpartition(".")
    plugin = getattr(importlib.import_module(f"volatility3.plugins.linux.{module}"), kind)
    found: list[interfaces.renderers.TreeNode] = []
    grid = plugin(context, "plugin").run()
    grid.populate(lambda node, seen: seen.append(node) or seen, found)
    return len(found)


def main(ram: str, isf: str, tables: str, slide: str) -> None:
    """Answer until standard input ends."""
    context = context_of(ram, isf, int(tables, 0), int(slide, 0))
    for line in sys.stdin:
        began = time.process_time()
        try:
            rows, problem = rows_of(context, line.strip()), ""
        except Exception as error:  # whatever a plugin cannot do
            rows, problem = 0, f"{type(error).__name__}: {error}"
        print(json.dumps([(time.process_time() - began) * 1000, rows, problem]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
