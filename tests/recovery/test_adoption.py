"""What the next daemon does with the runs of an earlier one, whatever their rows contain."""

import asyncio

from daemon.config.schema import Config
from daemon.recovery.adoption import adopt_runs
from daemon.store.cancellations import flag_cancellation
from daemon.store.connection import Transaction
from daemon.store.home import Home
from tests.support.ledger import SECOND, START, Ledger
from tests.support.parts import queue_on


async def test_a_run_that_cannot_be_cancelled_at_the_start_keeps_no_cancellation_back(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 20 * SECOND)

    def prepare(tx: Transaction) -> None:
        flag_cancellation(tx, 1, START, "alice")
        tx.execute("UPDATE schedules SET deleted_at = updated_at")
        tx.execute(
            "CREATE TEMP TRIGGER refuse BEFORE UPDATE ON main.runs WHEN old.id = 2 BEGIN SELECT RAISE(ABORT, 'no'); END"
        )

    await ledger.database.write(prepare)
    home = Home(ledger.database, ledger.folder / "state", "instance", START)
    async with queue_on(ledger.database, ledger.folder / "state", Config()) as queue:
        await adopt_runs(home, queue)
        rows = await ledger.select("SELECT status FROM runs ORDER BY id")
        assert [row["status"] for row in rows] == ["cancelled", "pending"]


async def test_an_adoption_that_fails_is_done_again_with_its_cancellations(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)

    def prepare(tx: Transaction) -> None:
        flag_cancellation(tx, 1, START, "alice")
        tx.execute("UPDATE runs SET not_before = '2099-01-01T00:00:00.000Z'")

    await ledger.database.write(prepare)
    has_ended = asyncio.Event()
    ledger.database.on_commit(lambda changes: has_ended.set() if "cancelled" in changes.labels("run") else None)
    async with queue_on(ledger.database, ledger.folder / "state", Config()) as queue:
        queue.adopt_later()
        await asyncio.wait_for(has_ended.wait(), 20)
