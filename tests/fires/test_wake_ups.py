"""A commit wakes every part that waits for it: no writer has to know the clock or the queue."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from daemon.access import Access
from daemon.clock.alarm import Clock
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.metrics import Metrics
from daemon.model import RunStatus
from daemon.store.connection import Transaction
from daemon.store.home import Home
from daemon.store.runs import change_status, get_run
from daemon.units import utc_now
from tests.support.ledger import SECOND, START, Ledger
from tests.support.parts import NO_NOTIFICATIONS, queue_on
from tests.support.waiting import wait_until


@pytest.fixture
async def clock(ledger: Ledger) -> AsyncIterator[Clock]:
    """A clock that serves a schedule which is not due for a day."""
    now = utc_now()
    ledger.started = now
    await ledger.declare(f'start_at = "{(now + timedelta(days=1)).isoformat()}"', at=now)
    live = LiveConfig(load_config(ledger.folder / "config.toml", {}))
    clock = Clock(Home(ledger.database, ledger.folder, "x", now), live, Access(live), NO_NOTIFICATIONS, Metrics())
    serving = asyncio.create_task(clock.serve())
    yield clock
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def until(ledger: Ledger, sql: str) -> None:
    """Wait for the commit after which a query gives rows."""
    committed = asyncio.Event()
    ledger.database.on_commit(lambda _: committed.set())
    async with asyncio.timeout(10):
        while not await ledger.select(sql):
            await committed.wait()
            committed.clear()


@pytest.mark.usefixtures("clock")
async def test_a_change_of_a_schedule_wakes_the_clock(ledger: Ledger) -> None:
    await ledger.database.write(lambda tx: tx.execute("SELECT 1").fetchone())
    await ledger.declare(every="1s", at=utc_now() - SECOND)
    await until(ledger, "SELECT 1 FROM fires WHERE outcome = 'launched'")


async def test_what_could_not_be_recorded_is_recorded_before_due_times_are_decided(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ended while the disk was full must not count as unfinished for an overlap policy."""
    monkeypatch.setattr("daemon.store.database._RETRY_DELAYS", (3600.0,))
    await ledger.declare('overlap = "skip"')
    ledger.started = utc_now()
    await ledger.decide(START + 10 * SECOND)
    with contextlib.closing(sqlite3.connect(ledger.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ending = asyncio.create_task(ledger.database.write_patiently(lambda tx: _end(tx, 1)))
        await asyncio.to_thread(wait_until, lambda: ledger.database.outage.reason, what="a refused write")
    live = LiveConfig(load_config(ledger.folder / "config.toml", {}))
    clock = Clock(
        Home(ledger.database, ledger.folder, "x", ledger.started), live, Access(live), NO_NOTIFICATIONS, Metrics()
    )
    await clock.decide()
    assert ending.done()
    newest = await ledger.select("SELECT outcome FROM fires ORDER BY scheduled_for DESC LIMIT 1")
    assert newest[0]["outcome"] == "launched"


def _end(tx: Transaction, run_id: int) -> None:
    run = get_run(tx, run_id)
    assert run is not None
    change_status(tx, run, RunStatus.CANCELLED, utc_now(), {})


async def test_a_new_run_and_a_free_slot_wake_the_queue(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    config = load_config(ledger.folder / "config.toml", {})
    (ledger.folder / "runs").mkdir()
    async with queue_on(ledger.database, ledger.folder, config):
        await ledger.database.write(lambda tx: tx.execute("SELECT 1").fetchone())
        await ledger.decide(ledger.started + 20 * SECOND)
        await until(ledger, "SELECT 1 WHERE (SELECT count(*) FROM runs WHERE status = 'completed') = 2")
    [first, second] = await ledger.select("SELECT started_at, completed_at FROM runs ORDER BY id")
    assert first["completed_at"] <= second["started_at"], "an agent runs one at a time"
