"""Cron expressions against the real Debian cron (cron 3.0pl1), whose starts were recorded under a virtual clock."""

import json
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.rules.cadence import Cadence, check_cron, check_zone, cron_cadence
from daemon.rules.cron import CronExpression

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "debian_cron_fires.json").read_text())
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module", autouse=True)
def _zones_of_the_package() -> Iterator[None]:
    """Look at no zone data of the host: where it is of before 2026c, Morocco changes otherwise than recorded."""
    places = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([])
    ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath(places)
    ZoneInfo.clear_cache()


def cadence(expression: str, zone: str = "UTC") -> Cadence:
    return cron_cadence(expression, zone, None, None, timedelta(0))


def fires(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Return the due times in start <= due < end."""
    found: list[datetime] = []
    due = cadence(expression, zone).next_after(start - SECOND)
    while due is not None and due < end:
        found.append(due)
        due = cadence(expression, zone).next_after(due)
    return found


@pytest.mark.parametrize("zone", sorted({case["zone"] for case in RECORDED}))
def test_due_times_equal_debian_cron(zone: str) -> None:
    for case in (case for case in RECORDED if case["zone"] == zone):
        start, end = datetime.fromisoformat(case["start"]), datetime.fromisoformat(case["end"])
        recorded = [datetime.fromisoformat(fire) for fire in case["fires"]]
        assert fires(case["expr"], zone, start, end) == recorded, case["expr"]
        assert cadence(case["expr"], zone).count(start - SECOND, end - SECOND) == len(recorded), case["expr"]


@pytest.mark.parametrize(
    "expression",
    [
        "* * * * *",
        "*/5 * * * *",
        "0-59/20 1,2,3 * jan-dec mon-fri",
        "0 0 * * 0",
        "0 0 * * 7",
        "0 0 * * SUN",
        "0 0 * * fri-7",
        "0 0 29 2 *",
        "*/100 * * * *",
        "007 * * * *",
        "  0\t0  1 1 *  ",
        "@hourly",
        "@midnight",
        "@annually",
    ],
)
def test_accepts_what_debian_cron_accepts(expression: str) -> None:
    assert check_cron(expression) == expression


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("* * * * * *", "6 fields"),
        ("* * * *", "4 fields"),
        ("", "0 fields"),
        ("\uff11 * * * *", "minute"),
        ("*/0 * * * *", "a step from 1"),
        ("60 * * * *", "0-59"),
        ("* 24 * * *", "0-23"),
        ("* * 0 * *", "1-31"),
        ("* * * 13 *", "1-12"),
        ("* * * * 8", "0-7"),
        ("1,,2 * * * *", "minute"),
        (",1 * * * *", "minute"),
        ("5-1 * * * *", "from low to high"),
        ("* * * * fri-sun", "from low to high"),
        ("5/15 * * * *", "minute"),
        ("* * * january *", "month"),
        ("* * * * mon#1", "day-of-week"),
        ("* * L * *", "day-of-month"),
        ("? * * * *", "minute"),
        ("jan * * * *", "minute"),
        ("0\u00a00 * * *", "4 fields"),
        ("0\u00a00 * * * *", "minute"),
        ("0 0\n* * * *", "hour"),
        ("0 0 * * *\n", "day-of-week"),
        ("0 0\u2003* * *", "4 fields"),
        ("5-5/0 * * * *", "a step from 1"),
        ("-5 * * * *", "minute"),
        ("+5 * * * *", "minute"),
        ("1.5 * * * *", "minute"),
        ("@reboot", "not a time"),
        ("@DAILY", "unknown macro"),
        ("@every 5m", "unknown macro"),
        ("0 0 30 2 *", "no date ever matches"),
        ("0 0 31 4 *", "no date ever matches"),
        ("0 0 31 2 *", "set paused = true"),
        ("1" * 100_000, "characters"),
    ],
)
def test_refuses_and_says_why(expression: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_cron(expression)


@pytest.mark.parametrize(
    "zone",
    ["", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "Europe", "posixrules", "right/UTC", "a\0b", "A" * 10_000],
)
def test_refuses_zones_that_are_no_iana_names(zone: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone"):
        check_zone(zone)


def test_a_day_field_that_starts_with_a_star_is_anded() -> None:
    start, end = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
    either = fires("0 0 13 * 5", "UTC", start, end)
    both = fires("0 0 */2 * 5", "UTC", start, end)
    assert [due.day for due in either] == [5, 12, 13, 19, 26]
    assert [due.day for due in both] == [5, 19]


EXPRESSIONS = st.sampled_from(
    [
        "* * * * *",
        "*/7 * * * *",
        "30 * * * *",
        "30 2 * * *",
        "0,30 1-3 * * *",
        "0 0 * * 0",
        "15 */2 1,15 * 1",
        "0 3 31 * *",
    ]
)
ZONES = st.sampled_from(
    ["UTC", "America/New_York", "Europe/London", "Australia/Lord_Howe", "Asia/Beirut", "America/St_Johns"]
)
INSTANTS = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))  # noqa: DTZ001


@given(EXPRESSIONS, ZONES, INSTANTS, st.integers(0, 86400))
def test_due_times_do_not_depend_on_the_start_of_the_search(
    expression: str, zone: str, instant: datetime, back: int
) -> None:
    due = cadence(expression, zone).next_after(instant)
    assert due is not None
    assert due > instant
    earlier = instant - timedelta(seconds=back)
    between = cadence(expression, zone).next_after(earlier)
    while between is not None and between <= instant:
        between = cadence(expression, zone).next_after(between)
    assert between == due


@settings(max_examples=40)
@given(EXPRESSIONS, ZONES, INSTANTS, st.integers(0, 6 * 86400))
def test_counting_equals_enumerating(expression: str, zone: str, start: datetime, seconds: int) -> None:
    end = start + timedelta(seconds=seconds)
    count, last, due = 0, None, cadence(expression, zone).next_after(start)
    while due is not None and due <= end:
        count, last, due = count + 1, due, cadence(expression, zone).next_after(due)
    assert cadence(expression, zone).count(start, end) == count
    assert cadence(expression, zone).last_until(start, end) == last


def test_a_job_matches_its_own_fields_on_ordinary_days() -> None:
    zone = ZoneInfo("Europe/Berlin")
    walls = CronExpression.parse("*/20 9-17 * * mon-fri")
    due = walls.next_after(datetime(2026, 5, 1, tzinfo=UTC), zone)
    for _ in range(200):
        assert due is not None
        local = due.astimezone(zone)
        assert local.minute % 20 == 0
        assert 9 <= local.hour <= 17
        assert local.weekday() < 5
        due = walls.next_after(due, zone)


def test_a_wildcard_job_of_a_single_date_follows_the_wall_clock_into_the_repeated_hour() -> None:
    expression = CronExpression.parse("*/40 1 26 10 *")
    due = expression.next_after(datetime(2025, 10, 26, 0, 59, tzinfo=UTC), ZoneInfo("Europe/London"))
    assert due == datetime(2025, 10, 26, 1, 0, tzinfo=UTC)
    due = expression.next_after(due, ZoneInfo("Europe/London"))
    assert due == datetime(2025, 10, 26, 1, 40, tzinfo=UTC)
    due = expression.next_after(due, ZoneInfo("Europe/London"))
    assert due == datetime(2026, 10, 26, 1, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("5-5/10 * * * *", "5 * * * *"),
        ("05-5/10,40 * * * *", "5,40 * * * *"),
        ("0 3-3/2,20-23/2 * * *", "0 3,20,22 * * *"),
        ("0 0 2-2/2 * *", "0 0 2 * *"),
        ("0 0 1 Feb-2/3 *", "0 0 1 2 *"),
        ("0 0 * * mon-MON/2", "0 0 * * 1"),
        ("0 0 * * 7-7/2", "0 0 * * 0"),
    ],
)
def test_the_end_of_a_range_ends_its_steps(expression: str, same: str) -> None:
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    assert fires(expression, "UTC", start, end) == fires(same, "UTC", start, end)
    assert cadence(expression, "UTC").count(start, end) == cadence(same, "UTC").count(start, end)
