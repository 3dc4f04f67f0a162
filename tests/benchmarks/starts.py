"""Starts of `true`, 16 at once: under supervisors, and as whole recorded runs, against bare asyncio subprocesses.

"Supervised" is what an agent's start costs by itself: nursery, supervisor, status file, output, the wait for the end of
its tree, in folders that were made before. "Recorded" is a run from the queue to its outcome, its folder made and each
step committed. Rounds are interleaved.

Run: python -m tests.benchmarks.starts [COUNT]
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from daemon.agents.base import Identity, Journal, RunSettings, Work
from daemon.agents.process.agent import SupervisedAgent
from daemon.agents.process.command import command_spec
from daemon.agents.process.launcher import Nursery
from daemon.config.loading import load_config
from daemon.config.schema import CommandAgent as Settings
from daemon.config.schema import Config
from daemon.fires.run_of_fire import run_of_fire
from daemon.model import DueTime, Trigger
from daemon.runs.folder import Handed, make_run_folder, run_folder
from daemon.runs.queue import Queue
from daemon.schedules.declared import sync_declared
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.store.runs import create_run
from daemon.store.schedules import get_schedule
from daemon.store.state_dir import open_state
from daemon.units import format_instant, utc_now
from tests.support.parts import queue_on

ROUNDS = 5
AT_ONCE = 16
CONFIG = f"""\
[daemon]
max_concurrent_runs = {AT_ONCE}
[agents.a]
command = ["true"]
max_concurrent = {AT_ONCE}
[agents.a.schedules.s]
every = "1d"
"""


async def stalls(into: list[float]) -> None:
    """Note by how many milliseconds each pass of the loop came late."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        into.append((time.perf_counter() - before - 0.001) * 1000)


async def all_of(count: int, one: Callable[[int], Awaitable[None]]) -> float:
    """Do something so many times, at most 16 at once; return how many seconds it took."""
    numbers = iter(range(1, count + 1))

    async def worker() -> None:
        for number in numbers:
            await one(number)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return time.perf_counter() - began


async def bare(count: int, _: Path) -> float:
    async def one(_: int) -> None:
        process = await asyncio.create_subprocess_exec("true", stdin=asyncio.subprocess.DEVNULL)
        await process.wait()

    return await all_of(count, one)


async def supervised(count: int, folder: Path) -> float:
    config = written(folder)
    settings = config.agents["a"]
    assert isinstance(settings, Settings)
    nursery = Nursery()
    now = format_instant(utc_now())
    (folder / "runs").mkdir()
    numbers = range(1, count + 1)
    handed = Handed("", "{}", "{}")
    places = {number: make_run_folder(folder, number, handed, config, settings.environment) for number in numbers}

    async def identified(_: Identity) -> None: ...
    async def starting() -> None: ...
    async def delivered() -> None: ...
    async def suspended(_: dict[str, object]) -> bool:
        return False

    async def tried(_: int, __: str, ___: float | None) -> None: ...

    async def one(number: int) -> None:
        at, name = run_folder(folder, number), f"benchmark:{number}"
        place = places[number] or folder
        work = Work(
            *(number, name, "a", "a/s", now, 1, Trigger.MANUAL, name), "user", "", {}, {}, now, at, place, RunSettings()
        )
        agent = SupervisedAgent(nursery, None, partial(command_spec, agent_config=settings, config=config, umask=0o077))
        outcome = await agent.run(work, Journal(identified, starting, delivered, suspended, tried))
        assert getattr(outcome, "exit_code", None) == 0, outcome

    took = await all_of(count, one)
    await nursery.close()
    return took


async def recorded(count: int, folder: Path) -> float:
    config = written(folder)
    async with open_state(folder, utc_now(), accept_data_loss=False) as database:
        await database.write(lambda tx: sync_declared(tx, config, utc_now()))
        await database.write(lambda tx: enqueue(tx, count))
        began = time.perf_counter()
        async with queue_on(database, folder, config) as queue:
            await until_none_is_left(database, queue)
            return time.perf_counter() - began


def written(folder: Path) -> Config:
    file = folder / "config.toml"
    file.write_text(CONFIG)
    return load_config(file)


def enqueue(tx: Transaction, count: int) -> None:
    row = get_schedule(tx, "a", "s")
    assert row is not None
    for number in range(count):
        due = DueTime(utc_now() + timedelta(milliseconds=number))
        create_run(tx, run_of_fire(row, due, Trigger.MANUAL, "instance"), utc_now())


async def until_none_is_left(database: Database, queue: Queue) -> None:
    left = True
    while left:
        await asyncio.sleep(0.02)
        await queue.until_none(lambda: queue.under_way)
        left = await database.read(
            lambda c: c.execute("SELECT 1 FROM runs WHERE completed_at IS NULL LIMIT 1").fetchone()
        )


async def measure(way: Callable[[int, Path], Awaitable[float]], count: int) -> tuple[float, float]:
    """Return starts per second, and the 99th percentile of the loop's stalls in milliseconds."""
    late: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        watch = asyncio.create_task(stalls(late))
        took = await way(count, Path(folder))
        watch.cancel()
    return count / took, statistics.quantiles(late, n=100)[98]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    ways = (supervised, recorded, bare)
    with Path("/dev/null").open("w") as nowhere:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(nowhere))
        rounds = [[asyncio.run(measure(way, count)) for way in ways] for _ in range(ROUNDS)]
    middle = [
        [statistics.median(single[way][figure] for single in rounds) for figure in range(2)] for way in range(len(ways))
    ]
    for way, (rate, stall) in zip(ways, middle, strict=True):
        print(
            f"{way.__name__:10} {rate:7.1f} starts/s, ratio to bare {rate / middle[-1][0]:5.2f}; "
            f"loop stall p99 {stall:5.1f} ms"
        )


if __name__ == "__main__":
    main()
