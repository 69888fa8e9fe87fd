# SPDX-License-Identifier: GPL-2.0-or-later
"""A broken file gives problems with lines, never a traceback, however it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import declarations, to_yaml

from vinci.cli.proof import print_proof, prove
from vinci.model.load import Declaration, DeclarationError, load, parse
from vinci.model.source import MAX_BYTES, MAX_DEPTH
from vinci.plan.bridge_rules import bridge_ruleset
from vinci.plan.compile import compile_plan
from vinci.plan.difference import difference
from vinci.plan.file_tables import share_table
from vinci.plan.firewall_rules import firewall_ruleset
from vinci.plan.gateway_table import gateway_table
from vinci.policy.changes import flow_changes
from vinci.policy.flows import leak_problems

EXAMPLES = Path(__file__).parents[3] / "examples"
HOSPITAL = (EXAMPLES / "hospital.yaml").read_bytes()
LINES = HOSPITAL.splitlines(keepends=True)
OLD = load(EXAMPLES / "hospital.yaml").infrastructure
OLD_PLAN = compile_plan(OLD)

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=20,
)


def use(declaration: Declaration) -> None:
    """All that `check`, `plan` and `flows` do with a file, leaky or not."""
    proof = prove(declaration)
    print_proof(proof)
    leak_problems(proof.analysis, declaration.source)
    assert all(proof.analysis.way(start, end) for start, end, _ in proof.analysis.passages())
    plan = compile_plan(declaration.infrastructure)
    difference(OLD_PLAN, plan)
    for node in plan.nodes:
        bridge_ruleset(node.bridges)
        for firewall in node.firewalls:
            firewall_ruleset(firewall)
            gateway_table(firewall)
        for service in node.file_services:
            share_table(service.shares, plan.members)
    flow_changes(OLD, declaration.infrastructure)
    flow_changes(declaration.infrastructure, OLD)


def parse_or_problems(untrusted: bytes) -> None:
    """It is a declaration with which everything can be done, or each problem has a sentence and a line of the file."""
    try:
        declaration = parse(untrusted, "file.yaml")
    except DeclarationError as error:
        problems = error.problems
    else:
        use(declaration)
        return
    text = untrusted.decode(errors="replace")
    lines = sum(text.count(end) for end in "\n\r\x85\u2028\u2029") + 2
    assert problems
    for problem in problems:
        assert problem.wrong
        assert 1 <= problem.line <= lines
        assert "\n" not in str(problem)
        assert len(str(problem)) < 1000


@given(st.binary(max_size=300))
@example(b"\xff\xfe")
@example(b"\x00")
@example(b"")
@example(b"a: *a")
@example(b"&a [*a]")
@example(b"? {a: b}\n: c")
@example(b"!!python/object/apply:os.system [id]")
@settings(max_examples=300)
def test_random_bytes(untrusted: bytes) -> None:
    parse_or_problems(untrusted)


@given(st.text(alphabet="ab:-?[]{}&*!|>'\"%@`#,~ \n\t0123456789.", max_size=120))
@settings(max_examples=500)
def test_random_yaml_syntax(text: str) -> None:
    parse_or_problems(text.encode())


@given(json_like)
@settings(max_examples=200)
def test_random_yaml_documents(value: object) -> None:
    parse_or_problems(to_yaml(value))


@given(st.data())
@settings(max_examples=300)
def test_mutated_example(data: st.DataObject) -> None:
    """Bytes of the hospital cut out, doubled or overwritten."""
    start = data.draw(st.integers(0, len(HOSPITAL) - 1))
    end = data.draw(st.integers(start, min(len(HOSPITAL), start + 200)))
    replacement = data.draw(st.binary(max_size=20) | st.just(HOSPITAL[start:end] * 2) | st.just(b""))
    parse_or_problems(HOSPITAL[:start] + replacement + HOSPITAL[end:])


@given(st.lists(st.integers(0, len(LINES) - 1), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_example_with_lines_missing_and_moved(numbers: list[int], random: object) -> None:
    lines = [line for number, line in enumerate(LINES) if number not in numbers]
    for number in numbers:
        lines.insert(number % (len(lines) + 1), LINES[number])
    parse_or_problems(b"".join(lines))


@given(declarations(), st.data())
@settings(max_examples=300)
def test_any_value_anywhere(data: dict[str, object], draw: st.DataObject) -> None:
    """One value of a valid file replaced by anything."""
    place: object = data
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))  # type: ignore[arg-type]
        key = draw.draw(st.sampled_from(keys))
        inner = place[key]  # type: ignore[index]
        if not inner or not isinstance(inner, (dict, list)) or draw.draw(st.booleans()):
            place[key] = draw.draw(json_like)  # type: ignore[index]
            break
        place = inner
    parse_or_problems(to_yaml(data))


@given(declarations(leaky=True), st.data())
@settings(max_examples=200, deadline=None)
def test_a_valid_file_without_some_of_its_parts(data: dict[str, object], draw: st.DataObject) -> None:
    """Parts that may be missing are: what is left mostly validates, and then everything can be done with it."""
    for _ in range(draw.draw(st.integers(1, 4))):
        place: object = data
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw.draw(st.sampled_from(keys))
            inner = place[key]
            if not isinstance(inner, (dict, list)) or not inner or draw.draw(st.integers(0, 3)) == 0:
                del place[key]
                break
            place = inner
    parse_or_problems(to_yaml(data))


@pytest.mark.parametrize(
    ("text", "wrong", "line"),
    [
        (b"vinci: 1\nvinci: 1\n", 'duplicate key "vinci"', 2),
        (b"vinci: 1\nusers: {a: &x {}, b: *x}\n", "alias *x is not read", 2),
        (b"vinci: 1\nusers:\n  <<: {}\n", "merge keys (<<) are not read", 3),
        (b"a: 1\n---\nb: 2\n", "a second document starts here", 2),
        (b"a: !secret x\n", 'tag "!secret" has no meaning here', 1),
        (b"a: 1\nb: [\n", "broken YAML", 3),
        (b"a: 1\nb: \xff\n", "no UTF-8", 2),
        (b"- a\n", "holds no declaration", 1),
        (b"a: " + b"[" * (MAX_DEPTH + 1), "nested more than", 1),
        (b"[" * 200_000, "nested more than", 1),
        (b"#" * (MAX_BYTES + 1), "bytes", 1),
        (b"a:\n\tb: 1\n", "a tab stands where YAML needs blanks", 2),
        (b"a: 1\nb: 'open\nc: 2\nd: it's\n", "in what begins in line", 4),
        (b"a: 'x\\e'\nb: \"x\\e[1A\\e[2K\"\n", "U+001B stands here, which no reader sees", 2),
        ("a: 1\nb: left\u202eright\n".encode(), "U+202E stands here, which no reader sees", 2),
        (b'a: 1\n"b\\n": 1\n', "U+000A stands here, which no reader sees", 2),
        ("a: 1\n# no harm\u2028b: 2\n".encode(), "U+2028 stands here, which no reader sees", 2),
        ("a: 1\n# no harm\x85b: 2\n".encode(), "U+0085 stands here, which no reader sees", 2),
        (b"a: 1\n# no harm\rb: 2\n", "U+000D stands here, which no reader sees", 2),
        (b"a: 1\n" * 1500, "there are more problems than these 1000", 1002),
    ],
)
def test_broken_yaml_is_named(text: bytes, wrong: str, line: int) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse(text, "file.yaml")
    assert [problem for problem in caught.value.problems if wrong in problem.wrong and problem.line == line]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"vinci: 1", b'vinci: "1"', '"vinci" is the text "1" (write 1, without quotes)'),
        (b"uid: 20001", b'uid: "20001"', "(it has to be a whole number, without quotes)"),
        (b"uid: 20001", b"uid: 2e4", "(a whole number is at most 18 digits, and nothing else)"),
        (b"uid: 20001", b"uid: " + b"9" * 25, "(a whole number is at most 18 digits, and nothing else)"),
    ],
)
def test_what_looks_right_is_told_what_it_is(old: bytes, new: bytes, told: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse(HOSPITAL.replace(old, new, 1), "file.yaml")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '"bills\\n\\tand plans"',
        "\N{WOMAN}\u200d\N{STAFF OF AESCULAPIUS}",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    ],
)
def test_a_text_for_people_may_be_in_any_language(text: str) -> None:
    parse(HOSPITAL.replace(b"description: bills and plans", f"description: {text}".encode()), "file.yaml")


def test_a_byte_order_mark_and_ends_of_lines_of_other_systems_are_fine() -> None:
    parse(b"\xef\xbb\xbf" + HOSPITAL.replace(b"\n", b"\r\n"), "file.yaml")


def test_of_many_wrong_values_it_is_told_that_there_are_more() -> None:
    users = b"".join(b"  u%d: {uid: x, communities: {doctors: {}}}\n" % number for number in range(1100))
    with pytest.raises(DeclarationError, match="there are more problems than these 1000"):
        parse(HOSPITAL.replace(b"users:\n", b"users:\n" + users), "file.yaml")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "nul\0.yaml"):
        with pytest.raises(DeclarationError, match="cannot be read"):
            load(path)


def test_values_are_shortened_and_printable() -> None:
    with pytest.raises(DeclarationError) as caught:
        parse(b'name: "' + b"x" * 5000 + b'\\e[31m"\n', "file.yaml")
    assert all(len(str(problem)) < 300 and problem.wrong.isprintable() for problem in caught.value.problems)


def test_a_password_is_never_shown() -> None:
    text = HOSPITAL.replace(b"password_hash: $argon2id$", b"password_hash: geheim$", 1)
    text = text.replace(b"uid: 20003", b"uid: 20003\n    password: geheim", 1)
    with pytest.raises(DeclarationError) as caught:
        parse(text, "file.yaml")
    assert len(caught.value.problems) == 2
    assert "geheim" not in str(caught.value)
