"""A commit wakes every part that waits for it: no writer has to know the clock or the queue."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from daemon.access import Access
from daemon.clock.alarm import Clock
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.metrics import Metrics
from daemon.store.home import Home
from daemon.units import utc_now
from tests.support.ledger import SECOND, Ledger
from tests.support.parts import NO_NOTIFICATIONS, queue_on


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
