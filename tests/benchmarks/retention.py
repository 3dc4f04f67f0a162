"""Rows purged per second by a sweep of retention, against the sqlite3 shell deleting the same runs.

The shell deletes them once by cascade in one transaction, and once by our own statements in transactions of 500 runs.
Told besides: how far the event loop falls behind, how long the sweep holds the write lock, and how large the
write-ahead log becomes. Nine of ten runs have expired; those that stay lie at the end, or scattered among the others.

Run: python -m tests.benchmarks.retention [RUNS]
"""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.config.effective import retention_policy
from daemon.config.loading import load_config
from daemon.maintenance.purge import Purge
from daemon.rules.retention import Cutoff
from daemon.store.database import Database
from daemon.store.state_dir import open_state
from tests.support.histories import fill

ROUNDS = 3
TOGETHER = 500  # runs in a transaction of the shell
CONFIG = """\
[retention]
days = 30
[agents.a]
command = ["true"]
"""
CHILDREN = (
    *("events", "steps", "hooks", "cancellation_flags", "trigger_keys", "start_keys"),
    *("run_notifications", "workspaces"),
)


def prepare(state: Path, runs: int, scattered: float) -> None:
    """Make a database of many runs."""
    state.mkdir()
    open_state(state, datetime.now(UTC), accept_data_loss=False)
    with contextlib.closing(sqlite3.connect(state / "state.db", isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO schedules (agent, name, source, every_ms, timezone, overlap, catchup, catchup_window_ms, "
            "creator, cursor, created_at, updated_at) "
            "VALUES ('a', 's', 'declared', 1000, 'UTC', 'skip', 'latest', 1, 'config', "
            "'2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z')"
        )
    fill(state / "state.db", runs, old_share=1.0 if scattered else 0.9, scattered=scattered)


def rows(state: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{state / 'state.db'}?mode=ro", uri=True)) as connection:
        tables = ("runs", *CHILDREN)
        return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)


def shell(state: Path, script: str) -> None:
    settings = "PRAGMA synchronous = FULL;\n"
    subprocess.run(["sqlite3", str(state / "state.db")], input=settings + script, text=True, check=True)


def by_cascade(state: Path, cutoff: str) -> None:
    shell(
        state,
        f"PRAGMA foreign_keys = ON;\nDELETE FROM runs WHERE completed_at IS NOT NULL AND updated_at < '{cutoff}';",
    )


def by_our_statements(state: Path, cutoff: str) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{state / 'state.db'}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT id FROM runs WHERE updated_at < ? ORDER BY id", (cutoff,)).fetchall()
    numbers = [number for (number,) in found]
    lines = []
    for first in range(0, len(numbers), TOGETHER):
        lines.append("BEGIN IMMEDIATE;")
        for low, high in spans(numbers[first : first + TOGETHER]):
            between = f"BETWEEN {low} AND {high}"
            lines += [f"DELETE FROM {table} WHERE run_id {between};" for table in CHILDREN]
            lines.append(f"UPDATE fires SET run_id = NULL WHERE run_id {between};")
            lines.append(f"DELETE FROM runs WHERE id {between};")
        lines.append("COMMIT;")
    shell(state, "\n".join(lines))


def spans(numbers: list[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


class Watch:
    """Looks at the loop, the write lock and the log while something is done."""

    def __init__(self, state: Path) -> None:
        self.late: list[float] = []
        self.holds: list[float] = []
        self.log = 0
        self._wal = state / "state.db-wal"

    async def look(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.late.append(time.perf_counter() - before - 0.001)
            self.log = max(self.log, self._wal.stat().st_size)

    def time_transactions(self, database: Database) -> None:
        real = database._commit_without_keys

        def timed(*arguments: Any) -> object:  # noqa: ANN401 - what it takes is its own
            began = time.perf_counter()
            try:
                return real(*arguments)
            finally:
                self.holds.append(time.perf_counter() - began)

        database._commit_without_keys = timed  # type: ignore[assignment,method-assign]


async def by_sweep(state: Path, watch: Watch) -> float:
    """Purge runs as the daemon does; return the seconds."""
    config = load_config(state.parent / "config.toml")
    async with open_state(state, datetime.now(UTC), accept_data_loss=False) as database, database.aside() as aside:
        watch.time_transactions(database)
        looking = asyncio.create_task(watch.look())
        began = time.perf_counter()
        policy = retention_policy(config, datetime.now(UTC))
        purge = Purge(database, aside, policy, policy.general.cutoff or Cutoff(datetime.now(UTC)))
        async for some in purge.candidates():
            await purge.delete_runs(some)
        taken = time.perf_counter() - began
        await purge.give_back()
        looking.cancel()
    return taken


def measure(folder: Path, runs: int, scattered: float) -> dict[str, float]:
    template = folder / "template"
    prepare(template, runs, scattered)
    cutoff = (datetime.now(UTC) - timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    before, per_second = rows(template), dict[str, list[float]]()
    watch = Watch(folder / "sweep")

    def note(name: str, place: Path, seconds: float) -> None:
        per_second.setdefault(name, []).append((before - rows(place)) / seconds)
        shutil.rmtree(place)

    for _ in range(ROUNDS):
        shutil.copytree(template, folder / "sweep")
        note("sweep", folder / "sweep", asyncio.run(by_sweep(folder / "sweep", watch)))
        for peer in (by_cascade, by_our_statements):
            place = folder / peer.__name__
            shutil.copytree(template, place)
            began = time.perf_counter()
            peer(place, cutoff)
            note(peer.__name__, place, time.perf_counter() - began)
    middle = {name: statistics.median(values) for name, values in per_second.items()}
    return {
        "rows/s": middle["sweep"],
        "against cascade": middle["sweep"] / middle["by_cascade"],
        "against our statements in the shell": middle["sweep"] / middle["by_our_statements"],
        "loop late, p99, ms": statistics.quantiles(watch.late, n=100)[98] * 1000,
        "loop late, most, ms": max(watch.late) * 1000,
        "lock held, p99, ms": statistics.quantiles(watch.holds, n=100)[98] * 1000,
        "lock held, most, ms": max(watch.holds) * 1000,
        "log, most, MB": watch.log / 1e6,
    }


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    for name, scattered in (("kept runs at the end", 0.0), ("kept runs scattered", 0.1)):
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "config.toml").write_text(CONFIG)
            found = measure(Path(place), runs, scattered)
        print(name, json.dumps({key: round(value, 2) for key, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
