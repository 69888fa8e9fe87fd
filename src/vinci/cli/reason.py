# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that reason: flows (who can pass information to whom), explain (why something is allowed or denied)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from vinci.cli.client import lines, node_paths
from vinci.cli.decision import UnexplainedError
from vinci.cli.declare import File, load_or_fail
from vinci.cli.failure import Failure, Status
from vinci.cli.in_force import declaration_in_force
from vinci.cli.output import print_json, print_table, run
from vinci.cli.proof import Proof, leak_lines, note_lines, proof_json, prove, say, step_json, verdict
from vinci.cli.records import explain_record
from vinci.model.load import Declaration
from vinci.policy.construction import trusted_by_construction
from vinci.policy.explain import Explanation, Ground, QuestionError, explain_access, explain_connection
from vinci.policy.flows import Passage, describe, hop_text
from vinci.policy.graph import Hop

MAX_SHOWN = 200
"""Most pairs of communities whose ways are told one by one."""
SHOWN_STEPS, SHOWN_NAMES = 4, 12
ARROWS = ("->", "to", "→")
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    app.command(epilog="Example: vinci flows examples/hospital.yaml --from doctors")(flows)
    app.command(
        epilog="Example: vinci explain nurses:sally write prescriptions        "
        "Example: vinci explain database to scada tcp/502        Example: vinci explain --event 17",
        context_settings={"ignore_unknown_options": True},  # `->` is a word, not an option
    )(explain)


# -- flows -----------------------------------------------------------------------------------------------------------


def flows(
    file: File,
    start: Annotated[str | None, typer.Option("--from", help="only what this community passes on")] = None,
    end: Annotated[str | None, typer.Option("--to", help="only what reaches this community")] = None,
    as_json: Json = False,
) -> None:
    """Who can pass information to whom and how, and whether every way down is explained. Exit status 1 when not."""
    proof = prove(load_or_fail(file))
    known = proof.declaration.infrastructure.communities
    for name in (start, end):
        if name is not None and name not in known:
            raise Failure(f'unknown community "{name}" (known: {", ".join(list(known)[:8])})', Status.USAGE)
    chosen = (
        (source, target, passage)
        for source, target, passage in proof.analysis.passages()
        if start in (None, source) and end in (None, target)
    )
    if as_json:
        print_json(_flows_json(proof, chosen))
    else:
        _print_flows(proof, chosen)
    raise typer.Exit(Status.DONE if proof.analysis.proved else Status.DOES_NOT_HOLD)


def _print_flows(proof: Proof, chosen: Iterable[tuple[str, str, Passage]]) -> None:
    analysis = proof.analysis
    pairs = iter(chosen)
    shown = list(islice(pairs, MAX_SHOWN))
    rows = [(start, end, how, _way_text(proof, analysis.way(start, end))) for start, end, how in shown]
    print_table("Information passes", ("from", "to", "how", "the shortest way"), rows)
    rest = sum(1 for _ in pairs)
    if rest:
        say(f"and between {rest} more pairs of communities: choose with --from and --to\n")
    steps = [describe(analysis.graph, hop, proof.declaration.source) for hop in analysis.trusted[:MAX_SHOWN]]
    print_table(
        "Trusted ways down",
        ("line", "who", "from label", "to label", "reason"),
        [(step.position, step.text, step.source_label, step.target_label, step.reason) for step in steps],
    )
    if len(analysis.trusted) > MAX_SHOWN:
        say(f"and {len(analysis.trusted) - MAX_SHOWN} more\n")
    infrastructure, source = proof.declaration.infrastructure, proof.declaration.source
    print_table(
        "Trusted by construction",
        ("line", "who", "sees", "of the communities"),
        [
            (source.at(keeper.path), keeper.who, _some(keeper.sees.split(", ")), _some(keeper.communities))
            for keeper in trusted_by_construction(infrastructure)
        ],
    )
    say(verdict(proof), None if analysis.proved else "red")
    for line in (*leak_lines(proof), *note_lines(proof)):
        say(line)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (
        f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    )


def _way_text(proof: Proof, way: tuple[Hop, ...]) -> str:
    texts = [hop_text(proof.declaration.infrastructure, hop) for hop in way[:SHOWN_STEPS]]
    rest = len(way) - SHOWN_STEPS
    return "; ".join(texts) + (f"; and {rest} more steps (--json tells all)" if rest > 0 else "")


def _flows_json(proof: Proof, chosen: Iterable[tuple[str, str, Passage]]) -> dict[str, object]:
    """All pairs; the way is given for the first of them, for each costs a search."""
    analysis, source = proof.analysis, proof.declaration.source
    pairs = []
    for number, (start, end, passage) in enumerate(chosen):
        way = analysis.way(start, end) if number < MAX_SHOWN else None
        steps = None if way is None else [step_json(describe(analysis.graph, hop, source)) for hop in way]
        pairs.append({"from": start, "to": end, "passage": passage.value, "way": steps})
    trusted = [step_json(describe(analysis.graph, hop, source)) for hop in analysis.trusted]
    rest = proof_json(proof)
    keepers = [
        {
            **{"who": keeper.who, "sees": keeper.sees, "communities": keeper.communities},
            "line": source.at(keeper.path).line,
        }
        for keeper in trusted_by_construction(proof.declaration.infrastructure)
    ]
    return {
        **{"proved": rest["proved"], "passages": pairs, "trusted": trusted, "leaks": rest["leaks"]},
        **{"trusted_by_construction": keepers, "notes": rest["notes"]},
    }


# -- explain ---------------------------------------------------------------------------------------------------------


def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION",
            help="COMMUNITY[:USER] OPERATION SHARE, or COMMUNITY to COMMUNITY SERVICE",
            show_default=False,
        ),
    ] = None,
    event: Annotated[int | None, typer.Option(help="a record of the audit, by its number")] = None,
    file: Annotated[Path | None, typer.Option(help="this file, not the declaration in force")] = None,
    node: Annotated[str | None, typer.Option(help="the node's name, when several run here")] = None,
    as_json: Json = False,
) -> None:
    """Why something is allowed or denied: which rule at which place, label by label, with the lines of the file."""
    if (event is None) == (not words):
        raise Failure(
            "ask one question: `explain nurses:sally write prescriptions`, `explain database to scada tcp/502` "
            "or `explain --event 17`",
            Status.USAGE,
        )
    run(_explain(words or [], event, file, node, as_json))


async def _explain(words: list[str], event: int | None, file: Path | None, node: str | None, as_json: bool) -> int:
    declaration = load_or_fail(file) if file is not None else await _declaration_in_force(node)
    try:
        if event is None:
            explanation = answer(declaration, words)
            extra: dict[str, object] = {}
        else:
            record = await _record(node, event)
            denial = explain_record(declaration, record)
            explanation = denial.explanation
            extra = {"event": record, "place": denial.place, "rule": denial.rule}
    except QuestionError as error:
        raise Failure(f"{error} ({error.right})", Status.USAGE) from None
    except UnexplainedError as error:
        raise Failure(str(error), Status.USAGE) from None
    if as_json:
        print_json({**extra, **_explanation_json(explanation)})
        return Status.DONE
    if event is not None:
        say(f"event {event}: {record['message']}")
        say(f"{'allowed' if denial.allowed else 'denied'} at: {denial.place}")
        say(f"by the rule: {denial.rule}")
    _print_explanation(explanation)
    return Status.DONE


def answer(declaration: Declaration, words: list[str]) -> Explanation:
    """The answer to a question in words. Raises QuestionError."""
    infrastructure, source = declaration.infrastructure, declaration.source
    if len(words) == 4 and words[1] in ARROWS:
        return explain_connection(infrastructure, source, words[0], words[2], words[3])
    if len(words) == 3:
        return explain_access(infrastructure, source, *words)
    wrong = f'"{" ".join(words)}" is no question that is understood'
    if len(words) == 2 and words[1] == "-":
        wrong = "the shell took `>` for itself"
    raise QuestionError(
        wrong, "ask `COMMUNITY[:USER] OPERATION SHARE` or `COMMUNITY to COMMUNITY SERVICE`; quote '->' for the shell"
    )


async def _declaration_in_force(node: str | None) -> Declaration:
    current = await declaration_in_force(node_paths(node))
    if current is None:
        raise Failure("no declaration is in force: name a file with --file", Status.FAILED)
    if current.declaration is None:
        raise Failure("the declaration in force no longer validates: name a file with --file", Status.FAILED)
    return current.declaration


async def _record(node: str | None, number: int) -> dict[str, Any]:
    """A record of the audit. Raises Failure when it is not kept."""
    async for line in lines(node_paths(node), "GET", f"/v1/audit?since={number}"):
        record = json.loads(line)
        if record.get("id") == number:
            return dict(record)
        break
    raise Failure(
        f"the audit has no record {number}: see `vinci audit` (four older files are kept, what is older is gone)",
        Status.USAGE,
    )


def _print_explanation(explanation: Explanation) -> None:
    say(explanation.answer, "green" if explanation.allowed else "red")
    for ground in explanation.grounds:
        say(_ground_line(ground))
    say(f"for the opposite: {explanation.change}")


def _ground_line(ground: Ground) -> str:
    where = f"  ({ground.position})" if ground.position is not None else ""
    return f"  {'*' if ground.decides else '-'} {ground.text}{where}"


def _explanation_json(explanation: Explanation) -> dict[str, object]:
    return {
        "question": explanation.question,
        "allowed": explanation.allowed,
        "grounds": [
            {
                "text": ground.text,
                "decides": ground.decides,
                "file": ground.position.file if ground.position else None,
                "line": ground.position.line if ground.position else None,
            }
            for ground in explanation.grounds
        ],
        "change": explanation.change,
    }
