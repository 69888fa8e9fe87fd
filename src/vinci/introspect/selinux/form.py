# SPDX-License-Identifier: GPL-2.0-or-later
"""One form for an SELinux policy, whether read from the trusted file or from a guest's memory, so that both compare.

Every section is a set of tuples of plain values. Sets of bits (the kernel's ebitmaps) are integers. Where the kernel
goes by the order of a list, its records begin with their number in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntFlag, StrEnum

Record = tuple[object, ...]
MAX_BITS = 8192
"""The longest set of bits that is read: more types than any policy of ours has."""


class Section(StrEnum):
    """The parts of a policy, named for the administrator."""

    HEADER = "header"
    """(mls, unknown classes and permissions: deny, reject or allow), (version), (capabilities), (permissive types)."""
    COMMONS = "common permissions"
    CLASSES = "classes and constraints"
    ROLES = "roles"
    TYPES = "types"
    ATTRIBUTES = "attributes of types"
    USERS = "users"
    BOOLEANS = "booleans"
    LEVELS = "sensitivities"
    CATEGORIES = "categories"
    RULES = "access rules"
    CONDITIONAL_RULES = "conditional rules"
    ROLE_TRANSITIONS = "role transitions"
    ROLE_ALLOWS = "role changes"
    NAME_TRANSITIONS = "named type transitions"
    RANGE_TRANSITIONS = "range transitions"
    OBJECTS = "contexts of objects"
    """Initial SIDs, file systems, ports, interfaces, nodes."""
    FILES = "contexts of generic file systems"


Form = Mapping[Section, frozenset[Record]]


class Config(IntFlag):
    """`POLICYDB_CONFIG_*` and `REJECT_UNKNOWN`, `ALLOW_UNKNOWN` of the kernel's policydb.h."""

    MLS = 1
    REJECT_UNKNOWN = 2
    ALLOW_UNKNOWN = 4


def unknown(config: int) -> str:
    """What becomes of classes and permissions that the policy does not define."""
    return "reject" if config & Config.REJECT_UNKNOWN else "allow" if config & Config.ALLOW_UNKNOWN else "deny"


def bits(value: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while value:
        low = value & -value
        yield low.bit_length() - 1
        value ^= low


def differences(trusted: Form, found: Form) -> Iterator[tuple[Section, tuple[Record, ...], tuple[Record, ...]]]:
    """Each section that is not the trusted one, with the records that were added and those that are missing."""
    for section in Section:
        added, missing = found[section] - trusted[section], trusted[section] - found[section]
        if added or missing:
            yield section, tuple(sorted(added, key=repr)), tuple(sorted(missing, key=repr))
