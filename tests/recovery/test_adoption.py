"""What the next daemon does with the runs of an earlier one, whatever their rows contain."""

import asyncio
import contextlib
import sqlite3

from daemon.agents.process.launcher import boot_id
from daemon.agents.process.supervisor import tree
from daemon.api.identity import Peer, Peers
from daemon.config.schema import Config
from daemon.model import RunStatus
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


async def test_runs_whose_rows_cannot_be_read_keep_no_other_from_starting(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 30 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    with contextlib.closing(sqlite3.connect(ledger.database.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE runs SET trigger = 'no such' WHERE id < 3")
    has_started = asyncio.Event()
    ledger.database.on_commit(lambda changes: has_started.set() if "running" in changes.labels("run") else None)
    config = Config.model_validate({"agents": {"a": {"command": ["true"], "max_concurrent": 9}}})
    async with queue_on(ledger.database, ledger.folder / "state", config) as queue:
        await adopt_runs(queue._home, queue)
        await asyncio.wait_for(has_started.wait(), 20)
        known = queue._home.problems.current()
    assert [(one.subject, one.reason.partition(" (")[0]) for one in known] == [
        ("run 1", "run 1 in the database is damaged"),
        ("run 2", "run 2 in the database is damaged"),
    ]


async def test_a_run_that_cannot_be_read_does_not_keep_callers_from_being_identified(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    with contextlib.closing(sqlite3.connect(ledger.database.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE runs SET trigger = 'no such', boot_id = ?, pid = 7, pid_started = 8", (boot_id(),))
    agent = tree.Process(7, 8)
    assert await Peers(ledger.database).principal_of(Peer(0, agent, (agent,))) == "run:1"
