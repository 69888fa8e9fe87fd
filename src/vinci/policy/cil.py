# SPDX-License-Identifier: GPL-2.0-or-later
"""The SELinux policy of an FS-VM as CIL text, and the contexts that it defines. Pure and linear in its inputs.

One type per community (`doctors_t`), one more for a user with rights of his own (`doctors_anna_own_t`), one per
share (`prescriptions_share_t`), one SELinux user per person, so that a denial can be read: `anna_u:doctors_r:
doctors_t:s1:c0` was denied `write` on `vinci_u:object_r:prescriptions_share_t:s1:c0`. The role ties a person to
his communities: the kernel refuses the context of a pair (person, community) that was not declared.

Names: declared names hold no underscore except a person's, so the endings `_t`, `_own_t`, `_mount_t` and
`_share_t` keep every type apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from vinci.model.infrastructure import Operation, ShareKind
from vinci.policy.se_base import MOUNTS, ROOT_T, SHARES, SUBJECTS, SYSTEM_USER, base_policy

ROOT_CONTEXT = f"{SYSTEM_USER}:object_r:{ROOT_T}:s0"
"""Context of the directory above all shares: everybody may pass, nobody may list or change it."""


class LabelLike(Protocol):
    """A label with its numbers (`vinci.plan.types.PlannedLabel`)."""

    @property
    def level(self) -> int: ...
    @property
    def categories(self) -> frozenset[int]: ...
    @property
    def mls(self) -> str: ...


class GrantLike(Protocol):
    """Who may do what with a share (`ShareGrant`)."""

    @property
    def community(self) -> str: ...
    @property
    def user(self) -> str | None: ...
    @property
    def operations(self) -> frozenset[Operation]: ...


class ShareLike(Protocol):
    """A share as the policy sees it (`PlannedShare`)."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> ShareKind: ...
    @property
    def label(self) -> LabelLike: ...
    @property
    def grants(self) -> Sequence[GrantLike]: ...
    @property
    def trusted(self) -> Sequence[str]: ...


class MemberLike(Protocol):
    """A user in a community (`Member`)."""

    @property
    def user(self) -> str: ...
    @property
    def community(self) -> str: ...


def share_context(name: str, label: LabelLike) -> str:
    """Context of share `name` and of everything in it."""
    return f"{SYSTEM_USER}:object_r:{name}_share_t:{label.mls}"


def subject_context(user: str, community: str, label: LabelLike, own_type: bool) -> str:
    """Context of `user` acting in `community`, whose label is `label`.

    `own_type` is true when a share grants rights to this user himself (see `own_types`).
    """
    return f"{_user(user)}:{community}_r:{_subject_type(user if own_type else None, community)}:{label.mls}"


def mount_context(community: str, label: LabelLike) -> str:
    """Context of UID 0 on a VM of `community`: it may mount the community's shares and do nothing else."""
    return f"{SYSTEM_USER}:{community}_r:{community}_mount_t:{label.mls}"


def own_types(shares: Iterable[ShareLike]) -> frozenset[tuple[str, str]]:
    """The pairs (user, community) to which some share grants rights of their own."""
    return frozenset((grant.user, grant.community) for share in shares for grant in share.grants if grant.user)


def file_policy(
    levels: int,
    categories: int,
    communities: Sequence[tuple[str, LabelLike]],
    members: Sequence[MemberLike],
    shares: Sequence[ShareLike],
) -> str:
    """The complete policy of one FS-VM, ready for `secilc --mls true`.

    Args:
        levels: number of sensitivity levels of the infrastructure.
        categories: number of categories.
        communities: name and label of each community that the FS-VM serves.
        members: users of these communities; pairs of other communities are an error of the caller.
        shares: shares of this FS-VM.
    """
    labels = dict(communities)
    owners = own_types(shares)
    trusted = [(f"{name}_subjects", f"{share.name}_share_t") for share in shares for name in share.trusted]
    lines: list[str] = []
    lines += base_policy(levels, categories, trusted)
    lines += _communities(labels)
    lines += _people(labels, members, owners)
    for share in shares:
        lines += _share(share)
    return "\n".join(lines) + "\n"


def _user(name: str) -> str:
    # CIL names start with a letter, and one user is the system's own; no login name holds an upper-case letter.
    return f"U{name}_u" if name.startswith("_") or f"{name}_u" == SYSTEM_USER else f"{name}_u"


def _subject_type(user: str | None, community: str) -> str:
    return f"{community}_{user}_own_t" if user else f"{community}_t"


def _communities(labels: Mapping[str, LabelLike]) -> Iterator[str]:
    for name in labels:
        yield f"(role {name}_r)"
        yield f"(userrole {SYSTEM_USER} {name}_r)"
        yield f"(typeattribute {name}_subjects)"
        yield f"(type {name}_t)"
        yield f"(type {name}_mount_t)"
        yield f"(roletype {name}_r {name}_subjects)"
        yield f"(roletype {name}_r {name}_mount_t)"
        yield f"(typeattributeset {name}_subjects ({name}_t))"
    if labels:
        yield f"(typeattributeset {SUBJECTS} ({' '.join(f'{name}_subjects' for name in labels)}))"
        yield f"(typeattributeset {MOUNTS} ({' '.join(f'{name}_mount_t' for name in labels)}))"


def _people(
    labels: Mapping[str, LabelLike], members: Iterable[MemberLike], owners: frozenset[tuple[str, str]]
) -> Iterator[str]:
    """One SELinux user per person, within the labels of the communities that he is in and no further."""
    communities_of: defaultdict[str, list[str]] = defaultdict(list)
    for member in members:
        communities_of[member.user].append(member.community)
    for user, names in communities_of.items():
        people = _user(user)
        yield f"(user {people})"
        for name in names:
            yield f"(userrole {people} {name}_r)"
            if (user, name) in owners:
                own = _subject_type(user, name)
                yield f"(type {own})"
                yield f"(typeattributeset {name}_subjects ({own}))"
        mine = [labels[name] for name in names]
        low = _level(min(label.level for label in mine), frozenset.intersection(*(label.categories for label in mine)))
        high = _level(max(label.level for label in mine), frozenset.union(*(label.categories for label in mine)))
        yield f"(userlevel {people} {low})"
        yield f"(userrange {people} ({low} {high}))"


def _level(level: int, categories: frozenset[int]) -> str:
    names = " ".join(f"c{number}" for number in sorted(categories))
    return f"(s{level} ({names}))" if names else f"(s{level})"


_RIGHTS: Mapping[Operation, Mapping[str, str]] = {
    Operation.READ: {
        "dir": "getattr search open read",
        "file": "getattr open read",
        "lnk_file": "getattr read",
        "fifo_file": "getattr",
        "sock_file": "getattr",
    },
    Operation.EXECUTE: {
        "dir": "getattr search open read",
        "file": "getattr open read execute",
        "lnk_file": "getattr read",
    },
    Operation.WRITE: {
        "dir": "getattr search setattr write add_name remove_name create rmdir rename reparent",
        "file": "getattr setattr open write append create unlink link rename",
        "lnk_file": "getattr setattr create unlink link rename",
        "fifo_file": "getattr setattr create unlink link rename",
        "sock_file": "getattr setattr create unlink link rename",
    },
    # An appender may start a new file: it gets the share's label, so information passes upwards only.
    Operation.APPEND: {
        "dir": "getattr search write add_name",
        "file": "getattr open append create",
    },
}


def _share(share: ShareLike) -> Iterator[str]:
    type_ = f"{share.name}_share_t"
    yield f"(type {type_})"
    yield f"(typeattributeset {SHARES} ({type_}))"
    for grant in share.grants:
        subjects = _subject_type(grant.user, grant.community) if grant.user else f"{grant.community}_subjects"
        for operation in sorted(grant.operations):
            for class_, permissions in _RIGHTS[operation].items():
                yield f"(allow {subjects} {type_} ({class_} ({permissions})))"
    for community in dict.fromkeys(grant.community for grant in share.grants):
        # Homes may be mounted one by one, so the mount passes through the directory above them.
        mount = "getattr search" if share.kind is ShareKind.HOMES else "getattr"
        yield f"(allow {community}_mount_t {type_} (dir ({mount})))"
