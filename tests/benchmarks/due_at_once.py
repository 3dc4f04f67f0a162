"""Many schedules due in one second: lateness and loop stalls of the clock against stock AsyncIOScheduler.

Ours are durable: a due time counts as fired when its rows are committed. The peer's jobs are no-ops in memory. No agent
is started by either. Rounds are interleaved, each in a process of its own.

Run: python tests/benchmarks/due_at_once.py [COUNT ...]
"""

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from daemon.access import Access
from daemon.clock.alarm import Clock
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.metrics import Metrics
from daemon.model import FireOutcome
from daemon.notify.outbox import Outbox
from daemon.schedules.declared import sync_declared
from daemon.store.changes import Changes
from daemon.store.home import Home
from daemon.store.state_dir import open_state
from daemon.units import utc_now

ROUNDS = 5
AHEAD = timedelta(seconds=3)  # between the end of the preparation and the due time
Measured = tuple[float, float]
"""p99 of the lateness and the longest stall, in milliseconds."""


async def watch_stalls(until: asyncio.Event) -> float:
    """Return the longest time for which the loop did not come round, less the millisecond that was asked for."""
    longest = 0.0
    while not until.is_set():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - before - 0.001)
    return longest * 1000


async def measure(
    count: int, due: datetime, begin: Callable[[Callable[[int], None]], Coroutine[Any, Any, None]]
) -> Measured:
    """Begin something that reports how many due times it fired, and watch the loop until all have been."""
    lateness: list[float] = []
    done = asyncio.Event()

    def fired(many: int) -> None:
        lateness.extend([(utc_now() - due).total_seconds() * 1000] * many)
        if len(lateness) == count:
            done.set()

    task = asyncio.create_task(begin(fired))
    stall = await watch_stalls(done)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return sorted(lateness)[int(count * 0.99) - 1], stall


async def ours(count: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        database = open_state(Path(folder), utc_now(), accept_data_loss=False)
        async with database:
            created = utc_now()
            due = (created + AHEAD + timedelta(milliseconds=count / 2)).replace(microsecond=0)  # creation takes time
            offset = int(due.timestamp()) % 86400
            file = Path(folder) / "config.toml"
            lines = ["[agents.a]", 'command = ["true"]']
            for number in range(count):
                lines += [f"[agents.a.schedules.s{number}]", 'every = "1d"', f'offset = "{offset}s"']
            file.write_text("\n".join(lines))
            config = load_config(file, {})
            await database.write(lambda tx: sync_declared(tx, config, created))
            assert utc_now() < due, "the preparation took too long"

            async def begin(fired: Callable[[int], None]) -> None:
                def committed(changes: Changes) -> None:
                    fired(changes.counts["fire", FireOutcome.LAUNCHED])

                live = LiveConfig(config)
                database.on_commit(committed)
                home = Home(database, Path(folder), "instance", created)
                await Clock(home, live, Access(live), Outbox(live), Metrics()).serve()

            return await measure(count, due, begin)


async def stock(count: int) -> Measured:
    due = (utc_now() + AHEAD + timedelta(milliseconds=count / 2)).replace(microsecond=0)
    scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None})

    async def begin(fired: Callable[[int], None]) -> None:
        async def job() -> None:
            fired(1)

        for _ in range(count):
            scheduler.add_job(job, "date", run_date=due)
        scheduler.start()
        await asyncio.Event().wait()

    return await measure(count, due, begin)


def one_round(way: Callable[[int], Coroutine[Any, Any, Measured]], count: int) -> Measured:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (way, count))


def _run(way: Callable[[int], Coroutine[Any, Any, Measured]], count: int) -> Measured:
    with Path("/dev/null").open("w") as nowhere:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(nowhere))
        return asyncio.run(way(count))


def main() -> None:
    for count in [int(word) for word in sys.argv[1:]] or [1000, 10_000]:
        rounds = [(one_round(ours, count), one_round(stock, count)) for _ in range(ROUNDS)]
        late, stall, their_late, their_stall = (
            statistics.median(column) for column in zip(*((*a, *b) for a, b in rounds), strict=True)
        )
        print(
            f"{count:6} due at once: p99 lateness {late:7.1f} ms, stock {their_late:7.1f} ms, "
            f"ratio {late / their_late:4.2f}; longest stall {stall:6.1f} ms, stock {their_stall:6.1f} ms, "
            f"ratio {stall / their_stall:4.2f}"
        )


if __name__ == "__main__":
    main()
