"""The document of the status."""

from functools import partial
from pathlib import Path

from daemon.config.schema import Config
from daemon.store.schedules import put_off
from daemon.store.skips import add_skip
from daemon.units import parse_instant
from daemon.views.status import status_view
from tests.support.ledger import SECOND, START, Ledger, due


async def test_a_due_time_that_is_to_be_skipped_is_not_next(ledger: Ledger, tmp_path: Path) -> None:
    """Wherever a next due time is shown, it is one that starts something."""
    await ledger.declare()

    async def following() -> list[str]:
        view = await ledger.database.read(lambda c: status_view(c, tmp_path, None, START, Config(), problems=None))
        return [one["scheduled_for"] for one in view["next"]]

    assert await following() == [due(10)]
    for at in (due(10), due(20)):
        await ledger.database.write(partial(add_skip, schedule_id=1, due=parse_instant(at), now=START, by="root"))
    assert await following() == [due(30)]


async def test_a_schedule_of_which_it_is_unknown_when_it_is_due_is_not_next(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.declare()
    elsewhere = "UPDATE schedules SET cron = '* * * * *', every_ms = NULL, timezone = 'Mars/Phobos'"
    await ledger.database.write(lambda tx: tx.execute(elsewhere).fetchall())
    await ledger.database.write(lambda tx: put_off(tx, 1, START + 60 * SECOND))
    view = await ledger.database.read(lambda c: status_view(c, tmp_path, None, START, Config(), problems=None))
    assert view["next"] == []
