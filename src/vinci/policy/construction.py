# SPDX-License-Identifier: GPL-2.0-or-later
"""Who sees information of several communities by construction: no line of the file opens that way, and none closes it.

They are no places in the graph of flows, for everything would lead through them. So they are listed beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vinci.model.infrastructure import Infrastructure
from vinci.model.problems import ModelPath


@dataclass(frozen=True, slots=True)
class Keeper:
    """A machine, with those who administer it, that the communities named have to trust."""

    who: str
    sees: str
    communities: tuple[str, ...]
    path: ModelPath


def trusted_by_construction(infrastructure: Infrastructure) -> tuple[Keeper, ...]:
    """Each node's A-VM and administrators, and each FS-VM, in file order."""
    everybody = tuple(infrastructure.communities)
    nodes = [
        Keeper(
            f"A-VM of node {name} and its administrators",
            "everything of the VMs that run there",
            everybody,
            ("nodes", name),
        )
        for name in infrastructure.nodes
    ]
    return (*nodes, *(_file_server(infrastructure, name) for name in infrastructure.file_servers))


def _file_server(infrastructure: Infrastructure, name: str) -> Keeper:
    shares = {share: declared for share, declared in infrastructure.shares.items() if declared.server == name}
    served = dict.fromkeys(grantee.partition(":")[0] for declared in shares.values() for grantee in declared.access)
    communities = tuple(community for community in infrastructure.communities if community in served)
    return Keeper(f"FS-VM {name}", f"{len(shares)} shares: " + ", ".join(shares), communities, ("file_servers", name))
