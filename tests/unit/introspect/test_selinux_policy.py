# SPDX-License-Identifier: GPL-2.0-or-later
"""The trusted policy file, as secilc writes it: what is read of it, cut short, and changed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vinci.introspect.selinux.form import Section, bits, differences
from vinci.introspect.selinux.policy_file import PolicyFormatError, read_policy
from vinci.node.payload import compile_policy

CIL = """
(handleunknown deny) (mls true) (policycap open_perms)
(class process (transition)) (class file (read write open)) (class dir (search)) (classorder (process file dir))
(sid kernel) (sidorder (kernel))
(sensitivity s0) (sensitivityorder (s0)) (category c0) (categoryorder (c0)) (sensitivitycategory s0 (c0))
(level low (s0)) (level high (s0 (c0)))
(type cook_t) (type soup_t) (type stew_t) (typeattribute food) (typeattributeset food (soup_t stew_t))
(role cook_r) (role object_r) (roletype cook_r cook_t) (roletype object_r food)
(user cook_u) (userrole cook_u cook_r) (userrole cook_u object_r) (userlevel cook_u low) (userrange cook_u (low high))
(sidcontext kernel (cook_u cook_r cook_t (low low)))
(allow cook_t food (file (read open)))
(typetransition cook_t soup_t file stew_t)
(mlsconstrain (file (write)) (eq l1 l2))
(genfscon proc "/" (cook_u object_r soup_t (low low)))
(fsuse xattr ext4 (cook_u object_r soup_t (low high)))
"""


@pytest.fixture(scope="module")
def binary() -> bytes:
    return compile_policy(CIL)


def test_what_the_text_says_is_read(binary: bytes) -> None:
    form = read_policy(binary)
    assert ("unknown", "deny") in form[Section.HEADER]
    assert ("permissive", 0) in form[Section.HEADER]
    types = {str(name): int(str(value)) for name, value, *_ in form[Section.TYPES]}
    classes = {name: (value, dict(sorted(permissions))) for name, value, _, permissions, *_ in form[Section.CLASSES]}  # type: ignore[call-overload]
    file, permissions = classes["file"]
    wanted = 1 << permissions["read"] - 1 | 1 << permissions["open"] - 1
    allowed = {
        target
        for source, target, class_, kind, data in form[Section.RULES]
        if (source, class_, kind, data) == (types["cook_t"], file, 1, wanted)
    }
    # the rule is the attribute's, whose members the sets of types tell
    members = {types[name] for name in ("soup_t", "stew_t")}
    for number, attributes in form[Section.ATTRIBUTES]:
        if int(str(number)) + 1 in members:
            assert allowed & {bit + 1 for bit in bits(int(str(attributes)))}
    assert {record[:2] for record in form[Section.FILES]} == {("proc", "/")}
    assert [record for record in form[Section.OBJECTS] if record[2] == "ext4"]


def test_a_rule_more_is_a_difference(binary: bytes) -> None:
    other = read_policy(compile_policy(CIL + "(allow cook_t cook_t (dir (search)))"))
    (section, added, missing), *rest = differences(read_policy(binary), other)
    assert (section, len(added), missing, rest) == (Section.RULES, 1, (), [])


def test_a_permissive_type_is_a_difference(binary: bytes) -> None:
    other = read_policy(compile_policy(CIL + "(typepermissive cook_t)"))
    assert [section for section, *_ in differences(read_policy(binary), other)] == [Section.HEADER]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_policy_that_is_cut_short_is_none(binary: bytes, data: st.DataObject) -> None:
    with pytest.raises(PolicyFormatError):
        read_policy(binary[: data.draw(st.integers(0, len(binary) - 1))])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_policy_is_refused_or_read_but_nothing_else_happens(binary: bytes, data: st.DataObject) -> None:
    changed = bytearray(binary)
    changed[data.draw(st.integers(0, len(binary) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(PolicyFormatError):
        list(differences(read_policy(binary), read_policy(bytes(changed))))


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(PolicyFormatError, match="not a binary SELinux policy"):
        read_policy(b"\0" * 100)
