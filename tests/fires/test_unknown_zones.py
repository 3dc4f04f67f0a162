"""Schedules in a time zone that this host does not know: nothing is due, and they can be mended."""

from collections.abc import Callable
from typing import Any

import pytest

from daemon.errors import DamagedRowError, InvalidError
from daemon.schedules import management
from daemon.schedules.management import ChangeRequest
from daemon.store.connection import Transaction
from daemon.store.schedules import ScheduleRow, get_schedule_by_id
from tests.support.ledger import SECOND, START, Ledger

LATER = START + 90 * SECOND
REQUEST = ChangeRequest("alice", LATER)
ELSEWHERE = "UPDATE schedules SET source = 'created', cron = '* * * * *', every_ms = NULL, timezone = 'Mars/Phobos'"


async def changed(
    ledger: Ledger, change: Callable[[Transaction, ScheduleRow], object], state: str = "paused = 0"
) -> ScheduleRow:
    """Change a schedule that came from a host with another time zone; return it as it is then."""
    await ledger.declare()

    def run(tx: Transaction) -> ScheduleRow:
        tx.execute(f"{ELSEWHERE}, {state}")
        row = get_schedule_by_id(tx, 1)
        assert row is not None
        change(tx, row)
        found = get_schedule_by_id(tx, 1)
        assert found is not None
        return found

    return await ledger.database.write(run)


def update(**values: Any) -> Callable[[Transaction, ScheduleRow], object]:  # noqa: ANN401 - columns of any kind
    return lambda tx, row: management.update(tx, row, values, REQUEST)


@pytest.mark.parametrize("state", ["paused = 0", "paused = 1, paused_at = '2026-11-21T12:00:00.500Z'"])
async def test_another_zone_mends_it_from_now_on(ledger: Ledger, state: str) -> None:
    row = await changed(ledger, update(timezone="UTC", paused=0), state)
    assert (row.definition["timezone"], row.cursor, row.next_due is not None) == ("UTC", LATER, True)
    [fire] = await ledger.decide(row.next_due or LATER)
    assert fire.due == row.next_due


async def test_it_can_be_paused_resumed_and_deleted(ledger: Ledger) -> None:
    def change(tx: Transaction, row: ScheduleRow) -> None:
        row = management.pause(tx, row, None, REQUEST)
        row = management.resume(tx, row, None, REQUEST)
        management.delete(tx, management.pause(tx, row, None, REQUEST), REQUEST)

    assert (await changed(ledger, change)).deleted_at == LATER.replace(microsecond=500_000)


async def test_a_running_one_can_be_deleted(ledger: Ledger) -> None:
    assert (await changed(ledger, lambda tx, row: management.delete(tx, row, REQUEST))).deleted_at is not None


async def test_what_is_no_cadence_can_be_changed_meanwhile(ledger: Ledger) -> None:
    row = await changed(ledger, update(input_content="other"))
    assert (row.definition["input_content"], row.definition["timezone"]) == ("other", "Mars/Phobos")


async def test_a_change_that_leaves_the_zone_is_refused_and_a_skip_is_told_why(ledger: Ledger) -> None:
    with pytest.raises(InvalidError, match="no cadence: unknown time zone"):
        await changed(ledger, update(cron="0 7 * * *"))
    with pytest.raises(DamagedRowError, match=r"a/s in the database is damaged .*unknown time zone"):
        await changed(ledger, lambda tx, row: management.skip(tx, row, LATER + 60 * SECOND, REQUEST))
