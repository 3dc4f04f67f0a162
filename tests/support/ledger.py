"""The ledger of fires: written in a real database without a daemon, and read from a daemon's."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.clock.alarm import decide_some
from daemon.config.loading import load_config
from daemon.fires.decision import Present
from daemon.fires.ledger import Fire
from daemon.model import RunStatus
from daemon.schedules.declared import sync_declared
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.store.runs import change_status, get_run
from daemon.units import format_instant, parse_instant
from tests.support.daemon_process import DaemonProcess
from tests.support.parts import NO_NOTIFICATIONS

START = datetime(2026, 11, 21, 12, 0, 0, 500_000, tzinfo=UTC)
SECOND = timedelta(seconds=1)
AGENT = """\
[agents.a]
command = ["sh", "-c", "echo $AGENTCRON_RUN_ID >> {folder}/started"]
[agents.a.schedules.s]
every = "1s"
overlap = "allow_all"
"""


class Ledger:
    """A schedule every 10 s (unless told otherwise), and the database that keeps its fires."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.started = START
        self.failures: list[tuple[str, str]] = []

    async def declare(self, *lines: str, at: datetime = START, every: str = "10s") -> list[Any]:
        cadence = [] if any(line.startswith("cron") for line in lines) else [f'every = "{every}"']
        schedule = ["[agents.a.schedules.s]", *cadence, *lines] if lines != ("nothing",) else []
        file = self.folder / "config.toml"
        file.write_text("\n".join(["[agents.a]", 'command = ["true"]', *schedule]))
        config = load_config(file, {})
        changes, _ = await self.database.write(lambda tx: sync_declared(tx, config, at))
        return changes

    async def decide(self, now: datetime, *, agents: tuple[str, ...] = ("a",)) -> list[Fire]:
        """Decide everything that is due by now, as the clock does."""
        found: list[Fire] = []
        present = Present(now, self.started, frozenset(agents), "instance")
        while True:
            decided = await decide_some(self.database, present, NO_NOTIFICATIONS, 25)
            found += decided.fires
            self.failures += decided.failures
            if decided.next_wake is None or decided.next_wake > now:
                return found

    async def rows(self) -> list[dict[str, Any]]:
        return await self.select("SELECT * FROM fires ORDER BY scheduled_for")

    async def select(self, sql: str) -> list[dict[str, Any]]:
        return await self.database.read(lambda c: [dict(row) for row in c.execute(sql)])

    async def move(self, run_id: int, *statuses: RunStatus) -> None:
        def go(tx: Transaction) -> None:
            for status in statuses:
                run = get_run(tx, run_id)
                assert run is not None
                change_status(tx, run, status, START)

        await self.database.write(go)


def due(seconds: int) -> str:
    return format_instant(START.replace(microsecond=0) + seconds * SECOND)


def assert_the_ledger_is_exact(daemon: DaemonProcess, schedule: int = 1) -> None:
    """Every due time of a schedule each second has exactly one row, from the first to the last."""
    sql = "SELECT scheduled_for, covers_until FROM fires WHERE schedule_id = ? ORDER BY scheduled_for"
    rows = daemon.query(sql, schedule)
    expected = parse_instant(rows[0]["scheduled_for"])
    for row in rows:
        assert row["scheduled_for"] == format_instant(expected)
        expected = datetime.fromisoformat(row["covers_until"] or row["scheduled_for"]) + timedelta(seconds=1)


def assert_no_run_started_twice(folder: Path) -> None:
    started = (folder / "started").read_text().split()
    assert len(started) == len(set(started))
