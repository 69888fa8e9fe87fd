# SPDX-License-Identifier: GPL-2.0-or-later
"""`vinci shell VM`: drgn on a running VM, with the trusted kernel's types and symbols."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vinci.cli.attachment import images_of, open_memory
from vinci.cli.client import node_paths, post
from vinci.cli.failure import Failure, Status
from vinci.cli.output import run

Node = Annotated[str | None, typer.Option(help="the node's name, when several run here")]
BANNER = """drgn on VM {vm}, which goes on running; nothing can be changed from here. `prog` is its kernel.
Types, symbols and addresses are the image's; what is read is the guest's, and a compromised guest lies.
Try: for_each_task(prog), prog["init_task"].comm, prog.symbol("kernel_kexec"), print_annotated_memory(ADDRESS, SIZE)"""


def register(app: typer.Typer) -> None:
    """Add the command of this room."""
    app.command(epilog="""Example: vinci shell doctors-1 -c 'print(prog["init_task"].comm)'""")(shell)


def shell(
    vm: Annotated[str, typer.Argument(help="a VM's name, see `vinci status`", show_default=False)],
    code: Annotated[str | None, typer.Option("-c", help="run this instead of a shell")] = None,
    node: Node = None,
) -> None:
    """Look into a running VM's kernel with drgn. Needs root; the VM notices nothing."""
    run(_shell(vm, code, node))


async def _shell(vm: str, code: str | None, node: str | None) -> int:
    attachment = await post(node_paths(node), "/v1/attachment", {"vm": vm})
    globals_ = _globals(attachment)
    if code is not None:
        exec(compile(code, "-c", "exec"), globals_)  # what drgn itself does with a script; root's own code
        return Status.DONE
    from drgn.cli import run_interactive

    banner = BANNER.format(vm=vm)
    run_interactive(globals_["prog"], banner_func=lambda _: banner, globals_func=lambda known: {**known, **globals_})
    return Status.DONE


def _globals(attachment: dict[str, Any]) -> dict[str, Any]:
    """What a session begins with."""
    # drgn and numpy take their time to load, and only this command needs them.
    import drgn
    import drgn.helpers.linux as helpers

    from vinci.images.build import images_in
    from vinci.introspect.attach import KernelNotFoundError, attach
    from vinci.introspect.drgn_program import program_of
    from vinci.introspect.memory import GuestMemory, Unreadable, parse_regions
    from vinci.introspect.profile import ensure_profile

    images: Path = images_of(attachment)
    profile = ensure_profile(images_in(images, images.name))
    memory = GuestMemory(open_memory(attachment), parse_regions(attachment["mtree"]))
    try:
        program = program_of(attach(memory, attachment["registers"], profile))
    except (KernelNotFoundError, Unreadable) as error:
        raise Failure(f"the kernel of VM {attachment['vm']} is not found: {error}", Status.FAILED) from None
    drgn.set_default_prog(program)
    names = {name: getattr(helpers, name) for name in helpers.__all__}
    return {"__name__": "__main__", "drgn": drgn, "prog": program, **names}
