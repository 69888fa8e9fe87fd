# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the ethertypes that communities declare."""

from __future__ import annotations

from collections.abc import Iterator

from vinci.model.checks.facts import Facts, Finding, error, warning
from vinci.model.ethertypes import HIGHEST, LOWEST, REFUSED, Refusal, ethertype_text
from vinci.model.infrastructure import Peers
from vinci.model.problems import ModelPath

_RANGE = f"ethertypes are {ethertype_text(LOWEST)} to {ethertype_text(HIGHEST)}"


def check_ethertypes(facts: Facts) -> Iterator[Finding]:
    """Ethertypes that exist, that a file may declare, each once, and that somebody may exchange."""
    for name, community in facts.infrastructure.communities.items():
        path: ModelPath = ("communities", name, "ethertypes")
        seen: set[int] = set()
        for index, number in enumerate(community.ethertypes):
            yield from _one(number, (*path, index))
            if number in seen:
                yield error((*path, index), f"{ethertype_text(number)} stands twice in ethertypes", "keep one of them")
            seen.add(number)
        if community.ethertypes and community.app_vms.peers is not Peers.ALL:
            what = f"the APP-VMs of {name} may not reach each other: no frame of these ethertypes passes"
            yield warning(path, what, "add `app_vms: {peers: all}`, or remove `ethertypes`")


def _one(number: int, path: ModelPath) -> Iterator[Finding]:
    text = ethertype_text(number) if number >= 0 else str(number)
    if 0 <= number < LOWEST:
        yield error(path, f"{text} is the length of a frame (IEEE 802.3), no ethertype", _RANGE)
    elif not LOWEST <= number <= HIGHEST:
        yield error(path, f"{text} is no ethertype", _RANGE)
    elif number in REFUSED:
        what, why = REFUSED[number]
        right = "remove it" if why is Refusal.JUDGED else "remove it: no key lets it pass"
        yield error(path, f"{text} is {what}: it {why}", right)
