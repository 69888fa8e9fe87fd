# SPDX-License-Identifier: GPL-2.0-or-later
"""The proof of flows as commands show it: verdict, leaks hop by hop, expectations, changes of flows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vinci.cli.output import console
from vinci.model.load import Declaration
from vinci.policy.changes import ChangeKind, FlowChange
from vinci.policy.channels import size_channels
from vinci.policy.expect import CounterExample, Expected, Outcome, check_expectations
from vinci.policy.flows import Analysis, Change, Leak, Step, analyse, describe

FAILURES = (Outcome.FAILS, Outcome.BROKEN)
MAX_COUNTER_EXAMPLES = 5
"""Most counter-examples to one expectation that are told to people; programs get all."""
MAX_LEAKS = 20
SIGNS = {ChangeKind.LOSES: "-", ChangeKind.GAINS: "+", ChangeKind.OPENS_DOWNWARD: "!"}


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found out about a declaration."""

    declaration: Declaration
    analysis: Analysis
    expected: tuple[Expected, ...]

    @property
    def failed(self) -> tuple[Expected, ...]:
        """Expectations that do not hold, or cannot be understood."""
        return tuple(each for each in self.expected if each.outcome in FAILURES)

    @property
    def holds(self) -> bool:
        """True when nothing leaks and every expectation holds."""
        return self.analysis.proved and not self.failed


def prove(declaration: Declaration) -> Proof:
    """Analyse the flows of a declaration and test its expectations."""
    analysis = analyse(declaration.infrastructure)
    return Proof(declaration, analysis, check_expectations(analysis, declaration.source))


def say(text: str, style: str | None = None) -> None:
    """Print a line as it is: nothing in it is markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


# -- for people ------------------------------------------------------------------------------------------------------


def verdict(proof: Proof) -> str:
    """The proof in one line."""
    analysis = proof.analysis
    if not analysis.proved:
        return f"NOT PROVED: information gets down unexplained by {_count(len(analysis.leaks), 'declaration')}"
    if not analysis.trusted:
        return "proved: no information gets to a lower or incomparable label"
    return f"proved: every way down is declared as trusted, with a reason ({_count(len(analysis.trusted), 'hop')})"


def leak_lines(proof: Proof) -> Iterable[str]:
    """Each leak, hop by hop, and what would close it."""
    for leak in proof.analysis.leaks[:MAX_LEAKS]:
        start, end = leak.way[0].source, leak.way[-1].target
        yield f"LEAK: information of {start} gets down to {end}"
        yield from (f"  {step}" for step in _steps(proof, leak))
        yield from _change_lines(leak.change, "  ")
    if len(proof.analysis.leaks) > MAX_LEAKS:
        yield f"and {len(proof.analysis.leaks) - MAX_LEAKS} more"


def note_lines(proof: Proof) -> Iterable[str]:
    """What declared lines open and the graph does not have."""
    source = proof.declaration.source
    return (f"note: {source.at(each.path)}: {each}" for each in size_channels(proof.analysis.graph))


def expectation_lines(expected: Iterable[Expected]) -> Iterable[str]:
    """Each expectation: holds, or its counter-examples."""
    words = {Outcome.HOLDS: "ok", Outcome.FAILS: "FAILS", Outcome.DISABLED: "off", Outcome.BROKEN: "BROKEN"}
    for each in expected:
        detail = f": {each.detail}" if each.detail else ""
        yield f"{words[each.outcome]:<6} {each.position}: {each.that}{detail}"
        if each.outcome is Outcome.FAILS and each.reason:
            yield f"       it matters because: {each.reason}"
        for example in each.counter_examples[:MAX_COUNTER_EXAMPLES]:
            yield f"       {example.text}"
            yield from (f"         {step}" for step in example.steps)
            if example.change is not None:
                yield from _change_lines(example.change, "         ")
        if len(each.counter_examples) > MAX_COUNTER_EXAMPLES:
            yield f"       and {len(each.counter_examples) - MAX_COUNTER_EXAMPLES} more"


def print_proof(proof: Proof) -> None:
    """The verdict, each leak, what the proof does not see, each expectation."""
    say(verdict(proof), None if proof.analysis.proved else "red")
    for line in leak_lines(proof):
        say(line)
    for line in note_lines(proof):
        say(line)
    for line in expectation_lines(proof.expected):
        say(line, "red" if line.startswith(("FAILS", "BROKEN")) else None)


def change_line(change: FlowChange) -> str:
    """A change of flows with its sign: `-` ends, `+` begins, `!` opens a way down."""
    return f"{SIGNS[change.kind]} {change.text}"


def refusal(proof: Proof) -> str:
    """Why a declaration that does not hold is not put in force."""
    lines = [verdict(proof), *leak_lines(proof)] if not proof.analysis.proved else []
    return "\n".join([*lines, *expectation_lines(proof.failed)])


def _steps(proof: Proof, leak: Leak) -> Iterable[Step]:
    return (describe(proof.analysis.graph, hop, proof.declaration.source) for hop in leak.way)


def _change_lines(change: Change, indent: str) -> Iterable[str]:
    yield f"{indent}smallest change: {change.text}"
    if change.alternative:
        yield f"{indent}or, if it is meant: {change.alternative}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# -- for programs ----------------------------------------------------------------------------------------------------


def proof_json(proof: Proof) -> dict[str, object]:
    """The proof as data."""
    return {
        "proved": proof.analysis.proved,
        "leaks": [
            {
                "from": str(leak.way[0].source),
                "to": str(leak.way[-1].target),
                "way": [step_json(step) for step in _steps(proof, leak)],
                "change": _change_json(leak.change),
            }
            for leak in proof.analysis.leaks
        ],
        "notes": notes_json(proof),
        "expectations": [
            {
                "that": each.that,
                "outcome": each.outcome.value,
                "reason": each.reason,
                "detail": each.detail,
                "line": each.position.line,
                "counter_examples": [_example_json(example) for example in each.counter_examples],
            }
            for each in proof.expected
        ],
    }


def notes_json(proof: Proof) -> list[dict[str, object]]:
    """What the proof does not see, as data."""
    source = proof.declaration.source
    return [
        {
            **{"text": str(each), "share": each.share, "seeing": each.seeing, "seen": each.seen},
            "line": source.at(each.path).line,
        }
        for each in size_channels(proof.analysis.graph)
    ]


def step_json(step: Step) -> dict[str, object]:
    """A hop as data."""
    return {
        "text": step.text,
        "from_label": step.source_label,
        "to_label": step.target_label,
        "downward": step.downward,
        "reason": step.reason,
        "line": step.position.line,
    }


def changes_json(changes: Iterable[FlowChange]) -> list[dict[str, object]]:
    """A change of flows as data."""
    return [{"kind": change.kind.value, "text": change.text} for change in changes]


def _example_json(example: CounterExample) -> dict[str, object]:
    change = _change_json(example.change) if example.change is not None else None
    return {"text": example.text, "way": [step_json(step) for step in example.steps], "change": change}


def _change_json(change: Change) -> dict[str, object]:
    return {"text": change.text, "alternative": change.alternative, "remove": [list(path) for path in change.remove]}
