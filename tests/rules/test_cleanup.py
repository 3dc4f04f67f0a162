"""Which workspaces a cleanup removes: every row of the policy's table, and the quota."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.model import ACTIVE, RunStatus
from daemon.rules.cleanup import Candidate, Policy, beyond_quota, decide_cleanup

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ERRORS = [RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.CONTINUED_AS_NEW]


def policy(**keys: Any) -> Policy:  # noqa: ANN401 - of any setting
    facts = {"keep_on_error": True, "keep_errors": 2, "quota": None, "quota_warn": 0.8, "salvage_max": 1, **keys}
    return Policy(max_age=24 * HOUR, **facts)


def ended(run: int, status: RunStatus, hours: float, *, source: str = "a/s", kept: bool = False) -> Candidate:
    return Candidate(run, source, status, kept, None if status in ACTIVE else NOW - hours * HOUR)


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.CANCELLED])
def test_completed_and_cancelled_runs_are_cleaned_by_age_alone(status: RunStatus) -> None:
    old, young = ended(1, status, 24.1), ended(2, status, 24)
    decisions = decide_cleanup([old, young], policy(), NOW)
    assert (decisions[1].due, decisions[2].due, decisions[2].may_go) == (True, False, True)
    assert decide_cleanup([young], policy(), NOW, 23 * HOUR)[2].due


@pytest.mark.parametrize("status", ERRORS)
def test_the_newest_errors_of_each_schedule_stay(status: RunStatus) -> None:
    group = [ended(run, status, 100 - run) for run in range(1, 5)] + [ended(9, status, 99, source="b/s")]
    decisions = decide_cleanup(group, policy(), NOW)
    assert {run: decision.due for run, decision in decisions.items()} == {
        1: True,
        2: True,
        3: False,
        4: False,
        9: False,
    }
    assert not decisions[3].may_go
    assert "among the newest 2" in decisions[3].reason
    assert all(decision.due for decision in decide_cleanup(group, policy(keep_on_error=False), NOW).values())


@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_active_runs_are_never_cleaned(status: RunStatus) -> None:
    decision = decide_cleanup([ended(1, status, 1000)], policy(), NOW, timedelta(0))[1]
    assert (decision.due, decision.may_go, decision.reason) == (False, False, "its run is active")


def test_what_a_person_keeps_stays_and_takes_its_place_among_the_errors() -> None:
    group = [ended(1, RunStatus.COMPLETED, 100, kept=True), ended(2, RunStatus.FAILED, 50, kept=True)]
    group += [ended(3, RunStatus.FAILED, 60), ended(4, RunStatus.FAILED, 70)]
    decisions = decide_cleanup(group, policy(), NOW)
    assert [decisions[run].due for run in (1, 2, 3, 4)] == [False, False, False, True]


def test_what_is_in_the_place_of_a_deleted_schedule_goes_at_once() -> None:
    for status in (RunStatus.COMPLETED, RunStatus.FAILED):
        young = ended(1, status, 1)
        assert not decide_cleanup([young], policy(), NOW)[1].due
        decision = decide_cleanup([replace(young, left=True)], policy(), NOW)[1]
        assert (decision.reason, decision.due) == ("its schedule was deleted", True)
    kept = replace(ended(1, RunStatus.COMPLETED, 1, kept=True), left=True)
    assert not decide_cleanup([kept], policy(), NOW)[1].due


@given(
    st.lists(st.tuples(st.sampled_from(list(RunStatus)), st.floats(0, 100), st.booleans(), st.integers(0, 50))),
    st.integers(0, 500),
)
def test_a_quota_takes_the_oldest_that_the_policy_lets_go(
    runs: list[tuple[RunStatus, float, bool, int]], quota: int
) -> None:
    group = [ended(number, run[0], run[1], kept=run[2]) for number, run in enumerate(runs, 1)]
    sizes = {number: run[3] for number, run in enumerate(runs, 1)}
    decisions = decide_cleanup(group, policy(), NOW)
    going = beyond_quota(sizes, decisions, quota)
    assert all(decisions[run].may_go for run in going)
    assert going == sorted(going)
    left = sum(sizes.values()) - sum(sizes[run] for run in going)
    helpful = [run for run, decision in decisions.items() if decision.may_go and sizes[run] > 0]
    assert left <= quota or going == sorted(helpful)
    assert set(going) <= set(helpful), "one that takes no room, or was not measured yet, would go for nothing"
    if going:
        assert left + sizes[going[-1]] > quota
