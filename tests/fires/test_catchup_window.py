"""How old a missed due time may be if a schedule does not say: at least until the next one comes."""

from collections.abc import Mapping
from datetime import timedelta

import pytest

from daemon.api.requests import ScheduleChange, ScheduleCreate
from daemon.api.schedule_columns import changed_columns, new_columns
from daemon.rules.cadence import Cadence, Interval, cron_cadence
from daemon.rules.catchup import default_window
from daemon.schedules import management
from daemon.schedules.management import ChangeRequest
from daemon.store.schedules import ScheduleRow, get_schedule
from tests.support.ledger import START, Ledger

DAY = timedelta(days=1)
WEEKLY = "0 7 * * 1"


@pytest.mark.parametrize(
    ("cron", "days"),
    [
        ("*/5 * * * *", 1),
        ("0 2 * * *", 1),
        (WEEKLY, 7),
        ("*/5 9-17 * * 1-5", 2 + (15 * 60 + 5) / 1440),
        ("0 0 1 * *", 31),
        ("0 0 1,15 * *", 17),
        ("@yearly", 366),
        ("0 0 29 2 *", 1461),
        ("0 0 1 * 1", 7),
    ],
)
def test_the_default_is_the_longest_gap_between_due_times(cron: str, days: float) -> None:
    cadence = cron_cadence(cron, "Europe/London", None, None, timedelta(0))
    assert default_window(DAY, cadence) == days * DAY
    assert default_window(2000 * DAY, cadence) == 2000 * DAY


def test_the_default_of_an_interval_is_its_length_or_a_day() -> None:
    assert default_window(DAY, Cadence(Interval(timedelta(hours=1)))) == DAY
    assert default_window(DAY, Cadence(Interval(10 * DAY))) == 10 * DAY


@pytest.mark.parametrize(("window", "outcome"), [((), "launched"), (('catchup_window = "24h"',), "skipped_missed")])
async def test_a_weekly_due_time_is_caught_up_within_the_week(
    ledger: Ledger, window: tuple[str, ...], outcome: str
) -> None:
    await ledger.declare(f'cron = "{WEEKLY}"', *window)
    ledger.started = START + 7 * DAY  # a Saturday; it was due on Monday
    fires = await ledger.decide(ledger.started)
    assert [fire.outcome for fire in fires] == [outcome]


async def windows(ledger: Ledger, *changes: Mapping[str, object]) -> list[float]:
    """Return the window in days of a schedule that is created and then changed through the API."""
    request, found = ChangeRequest("root", START), []

    def row_of(tx: object) -> ScheduleRow:
        row = get_schedule(tx, "a", "made")  # type: ignore[arg-type]
        assert row is not None
        return row

    for number, change in enumerate(changes):
        if number == 0:
            values = new_columns(ScheduleCreate(name="made", **change), "UTC")
            await ledger.database.write(lambda tx, v=values: management.create(tx, "a", "made", v, request))  # type: ignore[misc]
        else:
            values = changed_columns(ScheduleChange(**change))
            await ledger.database.write(lambda tx, v=values: management.update(tx, row_of(tx), v, request))  # type: ignore[misc]
        row = await ledger.database.read(row_of)
        found.append(row.catchup_window / DAY)
    return found


async def test_the_default_follows_the_cadence_of_a_created_schedule(ledger: Ledger) -> None:
    changes = (
        {"cron_expression": WEEKLY},
        {"interval_seconds": 3600},
        {"cron_expression": "@monthly"},
        {"jitter_seconds": 5},
    )
    assert await windows(ledger, *changes) == [7, 1, 31, 31]


async def test_a_window_that_was_set_stays_until_it_is_cleared(ledger: Ledger) -> None:
    changes = (
        {"cron_expression": WEEKLY, "catchup_window_seconds": 43200},
        {"cron_expression": "@monthly"},
        {"catchup_window_seconds": None},
    )
    assert await windows(ledger, *changes) == [0.5, 0.5, 31]
