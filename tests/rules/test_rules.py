"""States, overlap, catch-up and backoff."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.model import ACTIVE, Catchup, DueTime, FireOutcome, Overlap, RunStatus
from daemon.rules import catchup, overlap
from daemon.rules.backoff import retry_delay, start_delay
from daemon.rules.cadence import Cadence, interval_cadence
from daemon.rules.states import ALLOWED, is_allowed

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hourly(jitter: timedelta = timedelta(0)) -> Cadence:
    return interval_cadence(HOUR, timedelta(0), None, None, jitter)


@given(st.sampled_from(RunStatus), st.sampled_from(RunStatus))
def test_nothing_leaves_a_terminal_status(before: RunStatus, after: RunStatus) -> None:
    if before not in ACTIVE:
        assert not is_allowed(before, after)


def test_every_status_has_its_row_and_every_end_can_be_reached() -> None:
    assert set(ALLOWED) == set(RunStatus)
    reached = {RunStatus.PENDING}
    while more := {after for before in reached for after in ALLOWED[before]} - reached:
        reached |= more
    assert reached == set(RunStatus)


@pytest.mark.parametrize(
    ("policy", "unfinished", "waiting", "outcome", "held", "stop"),
    [
        (Overlap.SKIP, 1, 0, FireOutcome.SKIPPED_OVERLAP, False, None),
        (Overlap.BUFFER_ONE, 1, 0, FireOutcome.BUFFERED, True, None),
        (Overlap.BUFFER_ONE, 2, 1, FireOutcome.SKIPPED_OVERLAP, False, None),
        (Overlap.BUFFER_ALL, 1000, 999, FireOutcome.BUFFERED, True, None),
        (Overlap.BUFFER_ALL, 1001, 1000, FireOutcome.SKIPPED_OVERLAP, False, None),
        (Overlap.CANCEL_OTHER, 1, 0, FireOutcome.LAUNCHED, True, "cancel"),
        (Overlap.TERMINATE_OTHER, 3, 2, FireOutcome.LAUNCHED, True, "terminate"),
        (Overlap.ALLOW_ALL, 5, 0, FireOutcome.LAUNCHED, False, None),
    ],
)
def test_overlap(
    policy: Overlap, unfinished: int, waiting: int, outcome: FireOutcome, held: bool, stop: str | None
) -> None:
    verdict = overlap.decide(policy, unfinished, waiting)
    assert (verdict.outcome, verdict.held, verdict.stop_others) == (outcome, held, stop)


@given(st.sampled_from(Overlap))
def test_nothing_unfinished_means_a_start(policy: Overlap) -> None:
    assert overlap.decide(policy, 0, 0) == overlap.OverlapDecision(FireOutcome.LAUNCHED)


def test_late_is_not_missed_up_to_a_minute_unless_the_daemon_was_away() -> None:
    assert catchup.missed_before(NOW, NOW - HOUR) == NOW - timedelta(seconds=60)
    assert catchup.missed_before(NOW, NOW - timedelta(seconds=3)) == NOW - timedelta(seconds=3)
    assert catchup.missed_before(NOW, NOW + HOUR) == NOW - timedelta(seconds=60)  # the clock was stepped back


@given(st.integers(1, 100), st.integers(0, 100), st.sampled_from(Catchup), st.integers(0, 1800))
def test_catch_up_equals_an_oracle(gap_hours: int, window_hours: int, policy: Catchup, jitter: int) -> None:
    cadence = hourly(timedelta(seconds=jitter))
    window, now = window_hours * HOUR, NOW + timedelta(minutes=50)
    dues = [DueTime(NOW - n * HOUR) for n in range(gap_hours)][::-1]
    young = [due for due in dues if cadence.start_of(due, "a/b") >= now - window]
    wanted = {Catchup.NONE: [], Catchup.LATEST: young[-1:], Catchup.ALL: young}[policy]
    first = catchup.first_started(policy, window, cadence, "a/b", (dues[0], dues[-1]), now)
    assert [due for due in dues if first is not None and due >= first] == wanted


@given(st.integers(0, 3000), st.integers(0, 1800))
def test_the_last_missed_due_time_is_decided_by_its_start(seconds: int, jitter: int) -> None:
    cadence = hourly(timedelta(seconds=jitter))
    limit = NOW + timedelta(seconds=seconds)
    last = catchup.last_missed(cadence, "a/b", NOW - 5 * HOUR, limit)
    assert last is not None
    assert cadence.start_of(last, "a/b") < limit
    following = cadence.next_after(last)
    assert following is not None
    assert cadence.start_of(following, "a/b") >= limit


@given(st.integers(1, 200), st.floats(0, 0.999))
def test_retry_delay_doubles_up_to_an_hour(attempt: int, chance: float) -> None:
    delay = retry_delay(timedelta(seconds=30), attempt, chance)
    nominal = min(30.0 * 2 ** (attempt - 1), 3600.0)
    assert 0.9 * nominal <= delay.total_seconds() <= 1.1 * nominal + 0.001


@given(st.timedeltas(timedelta(0), timedelta(days=36500)), st.integers(1, 200))
def test_no_retry_delay_is_too_long_to_compute(base: timedelta, attempt: int) -> None:
    assert retry_delay(base, attempt, 0.5) <= HOUR


def test_a_start_that_fails_again_and_again_waits_longer_each_time_and_then_no_more() -> None:
    waits = [start_delay(failures) for failures in range(1, 21)]
    seconds = [wait.total_seconds() for wait in waits if wait is not None]
    assert seconds == [*(2, 4, 8, 16, 32, 64, 128, 256), *[300] * 11]
    assert waits[-1] is None
    assert 3600 < sum(seconds) < 2 * 3600
