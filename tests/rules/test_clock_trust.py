"""When a clock is not believed, so that no history is deleted for its age."""

from datetime import UTC, datetime, timedelta

import pytest

from daemon.rules.clock_trust import doubt

START = datetime(2026, 11, 21, tzinfo=UTC)
HOUR, DAY, YEARS = timedelta(hours=1), timedelta(days=1), timedelta(days=3650)


@pytest.mark.parametrize(
    ("now", "running", "newest", "reason"),
    [
        (START, timedelta(0), None, None),  # a new database
        (START + HOUR, HOUR, START, None),
        (START + 40 * DAY, 40 * DAY, START - HOUR, None),
        (START + YEARS, HOUR, START - HOUR, "the clock jumped ahead by 3649d while the daemon was running"),
        (START + 2 * HOUR, HOUR, START - HOUR, None),
        (START - YEARS, HOUR, START - HOUR, None),  # behind, nothing seems old
        (START + HOUR, HOUR, START - 30 * DAY, "the clock is 30d ahead of the last thing recorded before the start"),
        (START + DAY, DAY, START - 30 * DAY, None),  # believed after a day
        (START + YEARS, HOUR, START + YEARS - HOUR, None),  # it was wrong at the start, and has been corrected
    ],
)
def test_a_clock_far_ahead_is_not_believed_at_once(
    now: datetime, running: timedelta, newest: datetime | None, reason: str | None
) -> None:
    found = doubt(now, START, running, newest)
    assert (found is None) if reason is None else (found is not None and found.startswith(reason))
