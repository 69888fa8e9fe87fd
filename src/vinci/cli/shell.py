# SPDX-License-Identifier: GPL-2.0-or-later
"""`vinci shell VM`: drgn on a running VM or on saved evidence, with the trusted kernel's types and symbols."""

from __future__ import annotations

import asyncio
import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vinci.cli.attachment import images_of, open_memory
from vinci.cli.client import node_paths, post
from vinci.cli.failure import Failure, Status
from vinci.cli.names import vms
from vinci.node.paths import images_directory

Node = Annotated[str | None, typer.Option(help="the node's name, when several run here")]
BANNER = """drgn on {vm}; a VM goes on running, and nothing can be changed from here. `prog` is its kernel.
Types, symbols and addresses are the image's; what is read is the guest's, and a compromised guest lies.
Try: for_each_task(prog), prog["init_task"].comm, prog.symbol("kernel_kexec"), print_annotated_memory(ADDRESS, SIZE)"""


def register(app: typer.Typer) -> None:
    """Add the command of this room."""
    app.command(epilog="""Example: vinci shell doctors-1 -c 'print(prog["init_task"].comm)'""")(shell)


def shell(
    vm: Annotated[
        str | None, typer.Argument(help="a VM's name, see `vinci status`", show_default=False, autocompletion=vms)
    ] = None,
    code: Annotated[str | None, typer.Option("-c", help="run this instead of a shell", show_default=False)] = None,
    saved: Annotated[
        Path | None, typer.Option(help="look into evidence that was saved, not into a VM", show_default=False)
    ] = None,
    node: Node = None,
) -> None:
    """Look into a running VM's kernel with drgn. Needs root; the VM notices nothing."""
    if (vm is None) == (saved is None):
        raise Failure("name a VM, or evidence with --saved DIR", Status.USAGE)
    if saved is not None:
        source = _saved(saved)
    else:
        attachment = asyncio.run(post(node_paths(node), "/v1/attachment", {"vm": vm}))
        memory = open_memory(attachment)
        source = Source(memory, attachment["registers"], attachment["mtree"], images_of(attachment))
    raise typer.Exit(_run(source, vm or str(saved), code))


@dataclass(frozen=True, slots=True)
class Source:
    """Memory to look into, and what is needed to find the kernel in it."""

    memory: mmap.mmap
    registers: str
    mtree: str
    images: Path


def _saved(directory: Path) -> Source:
    """What `vinci inspect --save` wrote. Whether it is untouched is for the reader to verify first."""
    try:
        about = json.loads((directory / "about.json").read_text())
        with (directory / "memory.raw").open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        images = images_directory() / about["images"]["digest"]
        return Source(
            memory, (directory / "registers.txt").read_text(), (directory / "memory-map.txt").read_text(), images
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{directory} holds no evidence that can be read: {error}", Status.USAGE) from None


def _run(source: Source, name: str, code: str | None) -> int:
    globals_ = _globals(source, name)
    if code is None:
        from drgn.cli import run_interactive

        banner = BANNER.format(vm=name)
        run_interactive(
            globals_["prog"], banner_func=lambda _: banner, globals_func=lambda known: {**known, **globals_}
        )
        return Status.DONE
    try:
        exec(compile(code, "-c", "exec"), globals_)  # root's own code, as drgn itself runs a script
    except Exception as error:
        raise Failure(f"the code failed: {type(error).__name__}: {error}", Status.FAILED) from None
    return Status.DONE


def _globals(source: Source, name: str) -> dict[str, Any]:
    """What a session begins with."""
    # drgn and numpy take their time to load, and only this command needs them.
    import drgn
    import drgn.helpers.linux as helpers

    from vinci.images.build import images_in
    from vinci.introspect.attach import KernelNotFoundError, attach
    from vinci.introspect.drgn_program import program_of
    from vinci.introspect.memory import GuestMemory, Implausible, parse_regions
    from vinci.introspect.profile import ensure_profile

    try:
        profile = ensure_profile(images_in(source.images, source.images.name))
        memory = GuestMemory(source.memory, parse_regions(source.mtree))
        program = program_of(attach(memory, source.registers, profile))
    except (KernelNotFoundError, Implausible, OSError, ValueError) as error:
        raise Failure(f"the kernel of {name} is not found: {error}", Status.FAILED) from None
    drgn.set_default_prog(program)
    names = {known: getattr(helpers, known) for known in helpers.__all__}
    return {"__name__": "__main__", "drgn": drgn, "prog": program, **names}
