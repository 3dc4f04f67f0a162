"""Intervals, bounds and jitter."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.cadence import Cadence, interval_cadence

NONE = timedelta(0)
INSTANTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))  # noqa: DTZ001
LENGTHS = st.integers(1, 10**6).map(lambda seconds: timedelta(seconds=seconds))


def every(length: timedelta, offset: timedelta = NONE, **bounds: datetime) -> Cadence:
    return interval_cadence(length, offset, bounds.get("start_at"), bounds.get("end_at"), NONE)


def test_intervals_are_anchored_at_the_epoch() -> None:
    weekly = every(timedelta(days=7)).next_after(datetime(2026, 11, 21, tzinfo=UTC))
    assert weekly == datetime(2026, 11, 26, tzinfo=UTC)  # a Thursday, as 1970-01-01 was
    hourly = every(timedelta(hours=1), timedelta(minutes=5)).next_after(datetime(2026, 11, 21, 9, 5, tzinfo=UTC))
    assert hourly == datetime(2026, 11, 21, 10, 5, tzinfo=UTC)


@given(LENGTHS, LENGTHS, INSTANTS)
def test_due_times_strictly_increase_by_one_interval(length: timedelta, offset: timedelta, instant: datetime) -> None:
    cadence = every(length, offset)
    first = cadence.next_after(instant)
    assert first is not None
    assert instant < first <= instant + length
    assert cadence.next_after(first) == first + length
    assert cadence.next_after(first - timedelta(microseconds=1)) == first


@given(LENGTHS, INSTANTS, st.integers(0, 5000))
def test_counting_equals_arithmetic(length: timedelta, instant: datetime, many: int) -> None:
    cadence = every(length)
    assert cadence.count(instant, instant + many * length) == many
    assert cadence.count(instant, instant - length) == 0


@given(LENGTHS, INSTANTS)
def test_bounds_are_inclusive(length: timedelta, instant: datetime) -> None:
    due = every(length).next_after(instant)
    assert due is not None
    bounded = every(length, start_at=due, end_at=due)
    assert bounded.next_after(due - 10 * length) == due
    assert bounded.next_after(due) is None
    assert bounded.count(due - 10 * length, due + 10 * length) == 1
    assert bounded.last_until(due - 10 * length, due + 10 * length) == due


@given(LENGTHS, INSTANTS, st.integers(1, 10**6))
def test_jitter_repeats_itself_and_keeps_the_order(length: timedelta, instant: datetime, jitter: int) -> None:
    cadence = Cadence(every(length).rhythm, jitter=timedelta(seconds=jitter))
    due = cadence.next_after(instant)
    assert due is not None
    start = cadence.start_of(due, "a/b")
    assert start == cadence.start_of(due, "a/b")
    assert due <= start <= due + min(timedelta(seconds=jitter), length / 2)
    following = cadence.next_after(due)
    assert following is not None
    assert start <= cadence.start_of(following, "a/b")


def test_jitter_differs_between_schedules_and_due_times() -> None:
    cadence = Cadence(every(timedelta(hours=1)).rhythm, jitter=timedelta(minutes=30))
    due = cadence.next_after(datetime(2026, 1, 1, tzinfo=UTC))
    assert due is not None
    following = cadence.next_after(due)
    assert following is not None
    starts = {
        cadence.start_of(due, "a/b"),
        cadence.start_of(due, "a/c"),
        cadence.start_of(following, "a/b") - following + due,
    }
    assert len(starts) == 3
