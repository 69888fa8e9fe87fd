# SPDX-License-Identifier: GPL-2.0-or-later
"""The FS-VM's policy, compiled by secilc and read back by setools: what the kernel will enforce, not what we wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import setools

from vinci.model.infrastructure import Operation, ShareKind
from vinci.plan.types import Member, PlannedLabel, PlannedShare, ShareGrant
from vinci.policy.cil import file_policy, mount_context, own_types, share_context, subject_context
from vinci.policy.kernel_classes import FILE_CLASSES

READ, WRITE, APPEND, EXECUTE = Operation.READ, Operation.WRITE, Operation.APPEND, Operation.EXECUTE


def label(level: int, *categories: int) -> PlannedLabel:
    """A label by its numbers."""
    return PlannedLabel(level, frozenset(categories), "")


DOCTORS, NURSES, HIGH = label(1, 0), label(1, 0, 1), label(2, 0, 1, 2)
COMMUNITIES = [("doctors", DOCTORS), ("nurses", NURSES), ("administration", HIGH)]
MEMBERS = [
    Member("anna", "doctors", 20001, 20001),
    Member("bruno", "doctors", 20002, 20002),
    Member("bruno", "administration", 20002, 20002),
    Member("sally", "nurses", 20003, 20003),
]


def share(
    name: str, at: PlannedLabel, access: dict[str, set[Operation]], trusted: tuple[str, ...] = ()
) -> PlannedShare:
    """A share; `access` by community or `community:user`."""
    grants = tuple(
        ShareGrant(who.partition(":")[0], who.partition(":")[2] or None, frozenset(what))
        for who, what in access.items()
    )
    kind = ShareKind.HOMES if name.startswith("homes") else ShareKind.TREE
    return PlannedShare(name, "files", kind, at, f"/srv/{name}", "/m", grants, trusted, share_context(name, at))


SHARES = [
    share("prescriptions", DOCTORS, {"doctors": {READ, WRITE}, "nurses": {READ}}),
    share("billing", HIGH, {"doctors": {APPEND}, "administration": {READ}}),
    share("tools", DOCTORS, {"doctors:anna": {READ, WRITE}, "nurses": {EXECUTE}}, trusted=("nurses",)),
    share("homes-doctors", DOCTORS, {"doctors": {READ, WRITE}}),
]


def compiled(
    folder: Path,
    communities: Sequence[tuple[str, PlannedLabel]] = COMMUNITIES,
    members: Sequence[Member] = MEMBERS,
    shares: Sequence[PlannedShare] = SHARES,
    levels: int = 3,
    categories: int = 3,
) -> setools.SELinuxPolicy:
    """The policy through secilc and setools."""
    source, binary = folder / "p.cil", folder / "p.bin"
    source.write_text(file_policy(levels, categories, communities, members, shares))
    command = ["secilc", "--mls", "true", "-c", "33", "-o", str(binary), "-f", "/dev/null", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr or done.stdout
    return setools.SELinuxPolicy(str(binary))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> setools.SELinuxPolicy:
    """The small hospital's policy."""
    return compiled(tmp_path_factory.mktemp("policy"))


def allowed(policy: setools.SELinuxPolicy, source: str, target: str) -> set[tuple[str, str]]:
    """All (class, permission) that `source` has on `target`, attributes resolved."""
    rules = setools.TERuleQuery(policy, ruletype=["allow"], source=source, target=target).results()
    return {(str(rule.tclass), permission) for rule in rules for permission in rule.perms}


def may(policy: setools.SELinuxPolicy, source: str, share_name: str) -> dict[str, bool]:
    """What counts as each operation."""
    have = allowed(policy, source, f"{share_name}_share_t")
    return {
        "read": ("file", "read") in have and ("dir", "read") in have,
        "write": ("file", "write") in have,
        "append": ("file", "append") in have,
        "execute": ("file", "execute") in have,
        "remove": ("dir", "remove_name") in have,
        "create": ("file", "create") in have,
        "change": ("file", "setattr") in have,
        "directory": ("dir", "create") in have,
    }


def granted(text: str) -> dict[str, bool]:
    """The same, from words."""
    names = ["read", "write", "append", "execute", "remove", "create", "change", "directory"]
    return {name: name in text.split() for name in names}


@pytest.mark.parametrize(
    ("source", "share_name", "words"),
    [
        ("doctors_t", "prescriptions", "read write append remove create change directory"),
        ("doctors_anna_own_t", "prescriptions", "read write append remove create change directory"),
        ("nurses_t", "prescriptions", "read"),
        ("administration_t", "prescriptions", ""),
        ("doctors_t", "billing", "append create"),
        ("administration_t", "billing", "read"),
        ("doctors_t", "tools", ""),
        ("doctors_anna_own_t", "tools", "read write append remove create change directory"),
        ("nurses_t", "tools", "read execute"),
        ("doctors_mount_t", "prescriptions", ""),
        ("vinci_kernel_t", "prescriptions", ""),
        ("vinci_decode_t", "prescriptions", ""),
    ],
)
def test_types_have_the_rights_that_were_granted(
    policy: setools.SELinuxPolicy, source: str, share_name: str, words: str
) -> None:
    """One case for each kind of grant and each of the VM's own types."""
    assert may(policy, source, share_name) == granted(words)


def test_the_kernel_has_no_right_on_shares_but_to_see_their_roots(policy: setools.SELinuxPolicy) -> None:
    """Without its module the service is denied, not open."""
    for one in SHARES:
        assert allowed(policy, "vinci_kernel_t", f"{one.name}_share_t") == {("dir", "getattr")}


def test_root_of_a_vm_may_mount_and_nothing_else(policy: setools.SELinuxPolicy) -> None:
    """UID 0's type sees the root of a granted tree, and passes through the directory above homes."""
    assert allowed(policy, "nurses_mount_t", "prescriptions_share_t") == {("dir", "getattr")}
    assert allowed(policy, "nurses_mount_t", "billing_share_t") == set()
    assert allowed(policy, "doctors_mount_t", "homes-doctors_share_t") == {("dir", "getattr"), ("dir", "search")}


def test_every_right_on_a_share_is_under_a_rule_of_labels(policy: setools.SELinuxPolicy) -> None:
    """A permission that some grant gives, and no constraint names, would ignore the labels."""
    constrained = {(str(rule.tclass), p) for rule in policy.constraints() for p in rule.perms}
    given = {
        right
        for source in ("doctors_t", "nurses_t", "administration_t", "doctors_anna_own_t", "doctors_mount_t")
        for one in SHARES
        for right in allowed(policy, source, f"{one.name}_share_t")
        if right[0] in FILE_CLASSES
    }
    assert ("file", "write") in given
    assert given <= constrained


def test_a_person_has_the_roles_of_his_communities_only(policy: setools.SELinuxPolicy) -> None:
    """The kernel refuses a subject (person, community) that was not declared."""
    roles = {str(user): {str(role) for role in user.roles} - {"object_r"} for user in policy.users()}
    assert roles["anna_u"] == {"doctors_r"}
    assert roles["bruno_u"] == {"doctors_r", "administration_r"}
    types = {str(role): {str(type_) for type_ in role.types()} for role in policy.roles()}
    assert types["nurses_r"] == {"nurses_t", "nurses_mount_t"}


def test_trust_is_for_one_community_on_one_share(policy: setools.SELinuxPolicy) -> None:
    """The label's rules are lifted for the pair that was declared, not for its halves."""
    texts = [str(rule) for rule in policy.constraints()]
    reads = next(text for text in texts if text.startswith("mlsconstrain") and " file " in text and "read" in text)
    assert "tools_share_t" in reads
    assert "prescriptions_share_t" not in reads
    assert "and" in reads


def test_contexts_are_spelt_as_the_policy_defines_them() -> None:
    """Text for text: they are stored on disks and sent in tables."""
    assert share_context("billing", HIGH) == "vinci_u:object_r:billing_share_t:s2:c0,c1,c2"
    assert subject_context("anna", "doctors", DOCTORS, own_type=False) == "anna_u:doctors_r:doctors_t:s1:c0"
    assert subject_context("anna", "doctors", DOCTORS, True) == "anna_u:doctors_r:doctors_anna_own_t:s1:c0"
    assert mount_context("doctors", label(0)) == "vinci_u:doctors_r:doctors_mount_t:s0"
    assert own_types(SHARES) == {("anna", "doctors")}


@pytest.mark.parametrize(
    ("communities", "members", "shares", "levels", "categories"),
    [
        ([], [], [], 1, 0),
        ([("a", label(0))], [Member("_x-y", "a", 1000, 1000)], [], 1, 0),
        # names made to collide: suffixes, underscores in a person's name, words of CIL and of the policy
        (
            [(name, label(0)) for name in ("vinci", "share", "own", "self", "all", "type", "kernel", "vinci-kernel")],
            [Member(user, "share", 1000, 1000) for user in ("vinci", "share_t", "own", "x_own", "kernel", "_")],
            [
                share("share", label(0), {"share": {READ}, "share:own": {WRITE}, "share:x_own": {APPEND}}),
                share("own", label(0), {"share:share_t": {READ}, "share:_": {READ}}),
                share("mount", label(0), {"vinci": {EXECUTE}}),
                share("kernel", label(0), {"self": {READ}}),
            ],
            1,
            1,
        ),
    ],
)
def test_edge_cases_compile(
    tmp_path: Path,
    communities: list[tuple[str, PlannedLabel]],
    members: list[Member],
    shares: list[PlannedShare],
    levels: int,
    categories: int,
) -> None:
    """Nothing declared, no category, names that look like ours."""
    policy = compiled(tmp_path, communities, members, shares, levels, categories)
    assert "vinci_kernel_t" in {str(type_) for type_ in policy.types()}
