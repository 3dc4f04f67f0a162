"""Fires recorded durably per second, no agent started: the daemon's writer against two plain ways to write the rows.

A fire is what the clock commits for one due time: the run, its first event, the row of the ledger, and the schedule's
cursor, under `synchronous=FULL`. The peers write the same rows, most of their values ready made: one through
aiosqlite with a commit for each fire, one synchronously in groups of 500. Rounds are interleaved.

Run: python tests/benchmarks/durable_fires.py [FOLDER]
"""

import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path

import aiosqlite

from daemon.fires.run_of_fire import run_of_fire
from daemon.model import DueTime, FireOutcome, Trigger
from daemon.store.connection import Transaction, connect
from daemon.store.database import Database
from daemon.store.fires import record_fire
from daemon.store.runs import create_run
from daemon.store.schedules import ScheduleRow, get_schedule, insert_schedule, move_cursor
from daemon.store.state_dir import open_state
from daemon.units import format_instant

IN_FLIGHT = (1, 100, 1000)
ROUNDS = 5
SECONDS = 1.0  # for each way in each round
GROUP = 500
START = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = "2026-01-01T00:00:00.000Z"
METADATA = (
    '{"display_name": "Scheduled Message: s · 2026-01-01 00:00 UTC", "schedule_id": 1, "scheduled_fire_id": '
    '"1:2026-01-01T00:00:00.000Z", "trigger_type": "scheduled", "fire_time": "2026-01-01T00:00:00.000Z"}'
)
INSERT_RUN = (
    "INSERT INTO runs (name, agent, schedule_id, trigger, scheduled_for, attempt, status, created_at, updated_at, "
    "display_name, creator, idempotency_key, input_author, input_content, task_params, task_metadata, queue_class, "
    f"held) VALUES (?2, 'a', 1, 'scheduled', ?1, 1, 'pending', '{TEXT}', '{TEXT}', "
    f"'Scheduled Message: s · 2026-01-01 00:00 UTC', 'config', ?3, 'user', 'go', '{{}}', '{METADATA}', 0, 0)"
)
INSERT_EVENT = f"INSERT INTO events (run_id, number, at, type, data) VALUES (?, 1, '{TEXT}', 'created', '{{}}')"
INSERT_FIRE = (
    "INSERT INTO fires (schedule_id, scheduled_for, outcome, run_id, decided_at) "
    f"VALUES (1, ?, 'launched', ?, '{TEXT}')"
)
MOVE_CURSOR = "UPDATE schedules SET cursor = ?1, next_due = ?1, wake_at = ?1 WHERE id = 1"


@dataclass
class Place:
    """A database of the real schema, and the next due time that nobody has fired yet."""

    path: Path
    database: Database
    numbers: count  # type: ignore[type-arg]
    row: ScheduleRow | None = None


def prepare(folder: Path) -> Place:
    folder.mkdir()
    database = open_state(folder, START, accept_data_loss=False)
    connection = connect(database.path)
    values = {
        "agent": "a",
        "name": "s",
        "source": "declared",
        "description": "",
        "cron": None,
        "every_ms": 1000,
        "offset_ms": 0,
        "timezone": "UTC",
        "start_at": None,
        "end_at": None,
        "jitter_ms": 0,
        "overlap": "allow_all",
        "catchup": "latest",
        "catchup_window_ms": 1000,
        "pause_on_failure": 0,
        "input_content": "go",
        "creator": "config",
        "created_at": TEXT,
        "updated_at": TEXT,
    }
    insert_schedule(Transaction(connection), "a/s", START, values)
    place = Place(database.path, database, count(), get_schedule(connection, "a", "s"))
    connection.close()
    return place


def fire(tx: Transaction, row: ScheduleRow, number: int) -> None:
    """Do what the clock does for one due time that launches a run."""
    due = DueTime(START + timedelta(seconds=number))
    run_id, _ = create_run(tx, run_of_fire(row, due, Trigger.SCHEDULED, "instance"), due)
    record_fire(tx, row.id, due, FireOutcome.LAUNCHED, due, run_id=run_id)
    move_cursor(tx, row, due)


async def keep_in_flight(many: int, one: Callable[[], Awaitable[None]]) -> float:
    """Have so many callers repeat one write after the other; return the writes per second."""
    end, done = time.perf_counter() + SECONDS, 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await one()
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(many)))
    return done / (time.perf_counter() - started)


async def ours(place: Place, many: int) -> float:
    async def one() -> None:
        assert place.row is not None
        await place.database.write(partial(fire, row=place.row, number=next(place.numbers)))

    return await keep_in_flight(many, one)


def values_of(number: int) -> tuple[str, str, str]:
    """Return what differs from one fire to the next: due time, name of the run, and its key."""
    due = format_instant(START + timedelta(seconds=number))
    name = f"scheduled-run:1:{due}"
    return due, name, str(uuid.uuid5(uuid.NAMESPACE_OID, name))


async def commit_each(place: Place, connection: aiosqlite.Connection, many: int) -> float:
    turn = asyncio.Lock()  # a connection has one transaction at a time

    async def one() -> None:
        async with turn:
            due, name, key = values_of(next(place.numbers))
            await connection.execute("BEGIN IMMEDIATE")
            run_id = (await connection.execute(INSERT_RUN, (due, name, key))).lastrowid
            await connection.execute(INSERT_EVENT, (run_id,))
            await connection.execute(INSERT_FIRE, (due, run_id))
            await connection.execute(MOVE_CURSOR, (due,))
            await connection.execute("COMMIT")

    return await keep_in_flight(many, one)


def grouped(place: Place, connection: sqlite3.Connection) -> float:
    started, done = time.perf_counter(), 0
    while time.perf_counter() < started + SECONDS:
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(GROUP):
            due, name, key = values_of(next(place.numbers))
            run_id = connection.execute(INSERT_RUN, (due, name, key)).lastrowid
            connection.execute(INSERT_EVENT, (run_id,))
            connection.execute(INSERT_FIRE, (due, run_id))
            connection.execute(MOVE_CURSOR, (due,))
        connection.execute("COMMIT")
        done += GROUP
    return done / (time.perf_counter() - started)


async def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        own, each, group = (prepare(Path(folder) / name) for name in ("ours", "each", "group"))
        plain = connect(group.path)
        async with (
            own.database,
            each.database,
            group.database,
            aiosqlite.connect(each.path, isolation_level=None) as connection,
        ):
            await connection.execute("PRAGMA synchronous = FULL")
            for many in IN_FLIGHT:
                rounds = [
                    (await ours(own, many), await commit_each(each, connection, many), grouped(group, plain))
                    for _ in range(ROUNDS)
                ]
                a, b, c = (statistics.median(column) for column in zip(*rounds, strict=True))
                print(
                    f"{many:5} in flight: {a:7.0f} fires/s; a commit each {b:6.0f}/s, ratio {a / b:5.1f}; "
                    f"groups of {GROUP} {c:7.0f}/s, ratio {a / c:4.2f}"
                )
        plain.close()


if __name__ == "__main__":
    asyncio.run(main())
