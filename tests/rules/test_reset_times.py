"""When a limit is reset: the words of programs, read carefully."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.rules.reset_times import LONGEST_WAIT, reset_in

NOW = datetime(2026, 11, 29, 23, 50, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Berlin")  # 00:50 on 30 November


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("You've hit your session limit \u00b7 resets 2:57am (UTC)", "2026-11-30 02:57"),
        ("limit reached, resets 3pm (America/New_York)", "2026-11-30 20:00"),
        ("resets 12am (UTC)", "2026-11-30 00:00"),
        ("resets 12pm (UTC)", "2026-11-30 12:00"),
        ("resets at 23:55 UTC", "2026-11-29 23:55"),
        ("usage limit. Upgrade to Pro or try again at 1:54 AM.", "2026-11-30 00:54"),
        ("Resets Dec 3 at 4am (UTC)", "2026-12-03 04:00"),
        ("resets Dec 3, 4am (UTC)", "2026-12-03 04:00"),
        ("try again at Dec 1st, 2026 1:29 AM.", "2026-12-01 00:29"),
        ("exceeded your current quota.\nSuggested retry after 3600s.", "2026-11-30 00:50"),
        ("Please retry in 36.5s.", "2026-11-29 23:50:36.500000"),
        ("try again in 1 day 1 hour 33 minutes", "2026-12-01 01:23"),
        ("Please try again in 6m0s.", "2026-11-29 23:56"),
        ("try again in 1h30m", "2026-11-30 01:20"),
        ("try again in 500 milliseconds", "2026-11-29 23:50:00.500000"),
        ("usage limit reached|1796000000", "2026-11-30 00:53:20"),
        ("resets at 2026-11-30T02:57:00Z", "2026-11-30 02:57"),
        ("resets at 2026-11-30 02:57 +01:00", "2026-11-30 01:57"),
        ("limit reset at 2026-11-30 02:57", "2026-11-30 01:57"),
    ],
)
def test_the_words_of_programs_are_understood(words: str, expected: str) -> None:
    assert reset_in(words, NOW, ZONE) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "try again later",
        "it resets 5 of them",
        "resets 13pm (UTC)",
        "resets 25:00",
        "resets 2:57am (Nowhere/Land)",
        "resets 2:57am (../../etc/passwd)",
        "resets Feb 31 at 4am (UTC)",
        "resets Nov 3 at 4am (UTC)",
        "try again at Nov 20th, 2026 1:29 AM",
        "limit reached|1700000000",
        "at 3:00 it retries nothing, error 429",
    ],
)
def test_what_is_no_time_to_come_is_unknown(words: str) -> None:
    assert reset_in(words, NOW, ZONE) is None


def test_a_time_that_has_just_passed_is_now_and_not_tomorrow() -> None:
    assert reset_in("resets 11:45pm (UTC)", NOW) == NOW
    assert reset_in("resets 11:30pm (UTC)", NOW) == NOW + timedelta(hours=23, minutes=40)


def test_the_date_changes_with_the_year() -> None:
    now = datetime(2026, 12, 31, 12, 0, tzinfo=UTC)
    assert reset_in("resets Jan 2 at 4am (UTC)", now) == datetime(2027, 1, 2, 4, 0, tzinfo=UTC)


def test_a_time_of_day_follows_the_clock_of_its_zone() -> None:
    now = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)  # in Berlin, summer time ends in the night
    assert reset_in("resets 4am", now, ZONE) == datetime(2026, 10, 25, 3, 0, tzinfo=UTC)


def test_no_wait_is_longer_than_a_week() -> None:
    assert reset_in("try again in 300 days", NOW) == NOW + LONGEST_WAIT
    assert reset_in("resets at 2030-01-01T00:00:00Z", NOW) == NOW + LONGEST_WAIT


def test_without_a_zone_the_host_s_own_counts() -> None:
    found = reset_in("try again at 1:54 AM", NOW)
    assert found is not None
    local = found.astimezone()
    assert (local.hour, local.minute) == (1, 54)


WORDS = st.lists(
    st.sampled_from(["resets", "retry", "in", "at", "after", "9999999999", "12", ":", "59", "am", "s", "d", "("]),
    max_size=12,
)


@given(WORDS.map(" ".join) | WORDS.map("".join) | st.text(max_size=80))
@example("resets at 9999-12-31T23:59:59-23:59")
@example("resets Dec 31, 9999 11:59pm")
@example("try again in 999999999 days")
@example("resets 1:00am (" + "a/" * 20 + ")")
def test_whatever_is_said_the_time_is_within_a_week(words: str) -> None:
    found = reset_in(words, NOW, ZONE)
    assert found is None or NOW <= found <= NOW + LONGEST_WAIT
