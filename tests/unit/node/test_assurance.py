# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict on a VM, over all sequences of what can happen: trust has to be earned, and is lost at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinci.introspect.findings import Check, CheckResult, Finding, Look, Verdict, verdict_of
from vinci.node.introspection.assurance import Assurance, at, failed, looked, released, started

ALLOWED = 5.0
CLEAN = (CheckResult(Check.PLACE, 1, 1.0),)
HOOKED = (CheckResult(Check.PLACE, 1, 1.0, (Finding(Check.PLACE, "hooked", "here"),)),)
BROKEN = (CheckResult(Check.PLACE, 1, 1.0, error="cannot be followed"),)


def _look(results: tuple[CheckResult, ...] | Verdict) -> Look:
    if isinstance(results, Verdict):
        return Look("vm", results, (), 0.0, "why")
    return Look("vm", verdict_of(results), results, 1.0)


STEPS = st.one_of(
    st.tuples(st.just("look"), st.sampled_from([CLEAN, HOOKED, BROKEN, Verdict.UNREACHABLE, Verdict.UNCHECKED])),
    st.tuples(st.just("failed"), st.none()),
    st.tuples(st.just("wait"), st.floats(0, 20)),
    st.tuples(st.just("release"), st.none()),
    st.tuples(st.just("restart"), st.none()),
)


@given(st.lists(STEPS, max_size=12))
def test_a_vm_is_trusted_only_after_a_clean_look_in_time_and_without_an_open_incident(
    steps: list[tuple[str, object]],
) -> None:
    now, state = 0.0, started("1", 0.0, incident=False)
    clean_at: float | None = None  # begin of the last look, if it was complete and clean and nothing came between
    incident = clean_since = False
    for what, detail in steps:
        if what == "look":
            assert not isinstance(detail, (float, type(None)))
            look = _look(detail)  # type: ignore[arg-type]
            state = looked(state, look, now)
            clean_at = now if look.verdict is Verdict.TRUSTED else None
            incident = incident or look.verdict is Verdict.COMPROMISED
        elif what == "failed":
            state, clean_at = failed(state, "the checker ended"), None
        elif what == "wait":
            assert isinstance(detail, float)
            now += detail
            state = at(state, now, ALLOWED)
            if clean_at is not None and now - clean_at > ALLOWED:
                clean_at = None
        elif what == "release":
            if state.releasable:
                assert clean_at is not None
                state, incident = released(state), False
            else:
                with pytest.raises(ValueError, match="releasable"):
                    released(state)
        else:
            state, clean_at = started("2", now, incident=incident), None
        clean_since = clean_at is not None
        assert (state.verdict is Verdict.TRUSTED) == (clean_since and not incident)
        assert (state.verdict is Verdict.COMPROMISED) >= incident
        assert state.releasable == (incident and clean_since)


def _after(*results: tuple[CheckResult, ...] | Verdict) -> Assurance:
    state = started("1", 0.0, incident=False)
    for result in results:
        state = looked(state, _look(result), 0.0)
    return state


def test_the_states_are_told_apart() -> None:
    assert started("1", 0.0, incident=False).verdict is Verdict.UNCHECKED
    assert _after(CLEAN).verdict is Verdict.TRUSTED
    assert _after(CLEAN, Verdict.UNREACHABLE).verdict is Verdict.UNREACHABLE
    assert failed(_after(CLEAN), "it ended").verdict is Verdict.UNCHECKED
    assert at(_after(CLEAN), ALLOWED + 0.1, ALLOWED).verdict is Verdict.UNCHECKED
    assert _after(BROKEN).verdict is Verdict.COMPROMISED


def test_a_rootkit_that_hides_for_a_moment_is_not_forgotten() -> None:
    state = _after(HOOKED, CLEAN)
    assert state.verdict is Verdict.COMPROMISED
    assert state.observed is Verdict.TRUSTED
    assert released(state).verdict is Verdict.TRUSTED


def test_a_clean_restart_is_no_finding_and_a_restart_is_no_release() -> None:
    assert looked(started("2", 1.0, incident=False), _look(CLEAN), 2.0).verdict is Verdict.TRUSTED
    state = started("2", 1.0, incident=True)
    assert state.verdict is Verdict.COMPROMISED
    assert not state.releasable
    assert looked(state, _look(CLEAN), 2.0).releasable
