"""Durations, sizes and instants as people write them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.units import format_duration, format_instant, format_size, parse_duration, parse_instant, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("PT15M", 900),
        ("P1DT1S", 86401),
        ("P2W", 1209600),
        ("0s", 0),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "1", "1 h", "30m1h", "1.5h", "-5s", "P", "PT", "P1DT", "\uff15s", "1y", "99999999999999d", "36501d"]
)
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


@given(st.integers(0, 36500 * 86400))
def test_a_duration_survives_being_written(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "count"), [("500MB", 500_000_000), ("20GiB", 20 * 1024**3), ("1.5 KiB", 1536), ("0B", 0)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "5", "5 bytes", "-1MB", "1e3MB", "GiB", "9" * 30 + "B"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


def test_a_size_fits_into_63_bits() -> None:
    assert parse_size("8191PiB") < 2**63
    with pytest.raises(ValueError, match="larger than 8191 PiB"):
        parse_size("8192PiB")


def test_sizes_for_people() -> None:
    assert [format_size(count) for count in (0, 1023, 1536, 5 * 1024**4)] == ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]


def test_instants() -> None:
    assert parse_instant("2026-11-21T02:00:00+02:00") == datetime(2026, 11, 21, tzinfo=UTC)
    assert format_instant(datetime(2026, 11, 21, 2, tzinfo=UTC)) == "2026-11-21T02:00:00.000Z"


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21",
        "2026-11-21T02:00:00",
        "20261121T020000Z",
        "2026-W01-1T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_bad_instants_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"RFC 3339|no such date|years"):
        parse_instant(text)


@given(st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1)))  # noqa: DTZ001
def test_written_instants_sort_as_they_compare(naive: datetime) -> None:
    instant = naive.replace(tzinfo=UTC, microsecond=naive.microsecond // 1000 * 1000)
    assert parse_instant(format_instant(instant)) == instant
    assert (format_instant(instant) < "2026-01-01T00:00:00.000Z") == (instant < datetime(2026, 1, 1, tzinfo=UTC))
