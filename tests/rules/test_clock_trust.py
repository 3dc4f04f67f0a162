"""When a clock is not believed, so that no history is deleted for its age."""

from datetime import UTC, datetime, timedelta

import pytest

from daemon.rules.clock_trust import ClockTrust

START = datetime(2026, 11, 21, tzinfo=UTC)
HOUR, DAY, YEARS = timedelta(hours=1), timedelta(days=1), timedelta(days=3650)
NEVER_OFF = None


@pytest.mark.parametrize(
    ("known", "now", "elapsed", "reason"),
    [
        (ClockTrust(None), START, HOUR, None),  # a new database
        (ClockTrust(START), START + HOUR, HOUR, None),
        (ClockTrust(START), START + 40 * DAY, 40 * DAY, None),
        (ClockTrust(START), START + YEARS, HOUR, "the clock jumped ahead by 3649d while the daemon was running"),
        (ClockTrust(START), START + 2 * HOUR, HOUR, None),
        (ClockTrust(START), START - YEARS, HOUR, None),  # behind, nothing seems old
        (ClockTrust(START, NEVER_OFF, was_down=True), START + 6 * DAY, HOUR, None),
        (
            ClockTrust(START, NEVER_OFF, was_down=True),
            START + 30 * DAY,
            timedelta(0),
            "the clock is 30d ahead of the last time recorded before the start, 2026-11-21T00:00:00.000Z",
        ),
        (
            ClockTrust(START + 5 * HOUR, 5 * HOUR, was_down=True),
            START + 30 * DAY,
            18 * HOUR,
            "the clock is 29d ahead of the last time recorded before the start, 2026-11-21T00:00:00.000Z",
        ),
        (ClockTrust(START, 5 * HOUR, was_down=True), START + 30 * DAY, 19 * HOUR, None),  # believed after a day
        (ClockTrust(START, 5 * HOUR, was_down=True), START + HOUR, HOUR, None),  # it has been corrected
        (ClockTrust(START, 5 * HOUR, was_down=True, was_off=True), START + HOUR, HOUR, None),
        (ClockTrust(START, 5 * HOUR, was_down=True, was_off=True), START + 6 * DAY, 19 * HOUR, None),
    ],
)
def test_a_clock_far_ahead_is_not_believed_at_once(
    known: ClockTrust, now: datetime, elapsed: timedelta, reason: str | None
) -> None:
    assert known.after(now, elapsed).doubt(now) == reason


def test_a_clock_that_starts_in_1970_and_is_set_then_is_believed() -> None:
    known = ClockTrust(START, NEVER_OFF, was_down=True)
    in_1970 = known.after(datetime(1970, 1, 1, tzinfo=UTC), timedelta(0))
    assert in_1970.after(START + 3 * DAY, HOUR) == ClockTrust(START + 3 * DAY)


def test_a_clock_that_was_believed_while_it_was_wrong_can_be_set_back() -> None:
    known = ClockTrust(START + YEARS).after(START, HOUR)
    assert known.after(START + DAY, DAY) == ClockTrust(START + DAY)
