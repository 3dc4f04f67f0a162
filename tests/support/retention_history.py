"""A history of runs in a real database, and retention at work on it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.config.schema import Config
from daemon.maintenance.cleanup import Cleanup
from daemon.maintenance.mirrors import MirrorMaintenance
from daemon.maintenance.retention import Retention
from daemon.maintenance.workspace_removal import WorkspaceRemoval
from daemon.metrics import Metrics
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.store.home import Home
from daemon.units import format_instant
from daemon.workspaces.mirror_use import MirrorUse
from tests.support.parts import NO_NOTIFICATIONS

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ACTIVE = ("pending", "running", "suspended")
TABLES = (
    *("events", "steps", "hooks", "cancellation_flags", "trigger_keys", "start_keys"),
    *("run_notifications", "workspaces"),
)
AGENTS = '[agents.a]\ncommand = ["true"]\n[agents.b]\ncommand = ["true"]\n'
_SCHEDULE = (
    "INSERT INTO schedules (id, agent, name, source, every_ms, timezone, overlap, catchup, catchup_window_ms, creator, "
    "cursor, created_at, updated_at, deleted_at) VALUES (?1, ?2, 's' || ?1, 'created', 1000, 'UTC', 'skip', 'latest', "
    "1000, 'root', ?3, ?3, ?3, ?4)"
)


def ago(days: float) -> str:
    """Return an instant so many days ago, as records have it."""
    return format_instant(NOW - timedelta(days=days))


class History:
    """What has happened, row by row."""

    def __init__(self, database: Database, state_dir: Path) -> None:
        self.database = database
        self.state_dir = state_dir
        self.metrics = Metrics()
        self.live = LiveConfig(Config())
        """By which retention sweeps."""

    async def execute(self, sql: str, *values: object) -> None:
        await self.database.write(lambda tx: tx.execute(sql, values).fetchall())

    async def query(self, sql: str, *values: object) -> list[Any]:
        """Return the rows that a query gives; of a single column, its values."""
        rows = await self.database.read(lambda c: [tuple(row) for row in c.execute(sql, values)])
        return [row[0] if len(row) == 1 else row for row in rows]

    async def schedule(self, number: int, agent: str = "a", *, deleted: float | None = None) -> int:
        at = None if deleted is None else ago(deleted)
        await self.execute(_SCHEDULE, number, agent, ago(500), at)
        return number

    async def run(
        self,
        status: str = "completed",
        days: float = 40,
        *,
        agent: str = "a",
        schedule: int | None = None,
        previous: int | None = None,
        updated_at: str | None = None,
    ) -> int:
        """Write a run that was touched last so many days ago; return its number."""
        at = updated_at or ago(days)

        def write(tx: Transaction) -> int:
            is_active = status in ACTIVE
            made = tx.execute(
                "INSERT INTO runs (name, agent, schedule_id, trigger, scheduled_for, status, created_at, started_at, "
                "completed_at, updated_at, display_name, creator, idempotency_key, queue_class, previous_run_id, "
                "next_run_id) VALUES ('x', ?, ?, 'scheduled', ?, ?, ?, ?, ?, ?, 'x', 'root', 'key', 0, ?, ?)",
                (agent, schedule, at, status, at, at, None if is_active else at, at, previous)
                + ((1,) if status == "continued_as_new" else (None,)),
            )
            number = int(made.lastrowid or 0)
            following = number + 1 if status == "continued_as_new" else None
            tx.execute("UPDATE runs SET name = 'run-' || id, next_run_id = ? WHERE id = ?", (following, number))
            return number

        return await self.database.write_without_keys(write)

    async def attach(self, run: int) -> None:
        """Give a run a row of each kind, and a folder."""
        at = ago(40)
        for table, columns, values in (
            ("events", "run_id, number, at, type", (run, 1, at, "x")),
            ("steps", "run_id, name, started_at", (run, "work", at)),
            ("hooks", "run_id, token_hash, created_at, expires_at", (run, f"token-{run}", at, at)),
            ("cancellation_flags", "run_id, requested_at, requested_by", (run, at, "root")),
            ("trigger_keys", "schedule_id, key, request, run_id", (1, f"key-{run}", "x", run)),
            ("start_keys", "agent, key, request, run_id", ("a", f"key-{run}", "x", run)),
            ("run_notifications", "run_id, target, event, state, at", (run, "ops", "completed", "notified", at)),
            ("workspaces", "run_id, environment, path, state, created_at", (run, "site", "x", "removed", at)),
        ):
            marks = ", ".join("?" for _ in values)
            await self.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", *values)
        folder = self.state_dir / "runs" / str(run)
        (folder / "artifacts").mkdir(parents=True)
        (folder / "output.log").write_text("x" * 10_000)

    async def fire(self, schedule: int, days: float, *, run: int | None = None, until: float | None = None) -> str:
        """Write the fire of a due time so many days ago; return the due time."""
        due, last = ago(days), None if until is None else ago(until)
        outcome = "skipped_missed" if run is None else "launched"
        await self.execute(
            "INSERT INTO fires (schedule_id, scheduled_for, outcome, run_id, decided_at, covers_until, covers_count) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(schedule, due, outcome, run, due, last, None if last is None else 9),
        )
        return due

    async def revision(self, schedule: int, version: int, days: float) -> None:
        sql = "INSERT INTO schedule_revisions (schedule_id, version, at, principal, action) VALUES (?, ?, ?, 'x', 'x')"
        await self.execute(sql, schedule, version, ago(days))

    async def workspace(self, run: int, state: str, *, kept: bool, path: str = "x") -> None:
        columns = "run_id, environment, path, state, kept, created_at"
        sql = f"INSERT INTO workspaces ({columns}) VALUES (?, 'e', ?, ?, ?, 'x')"
        await self.execute(sql, run, path, state, int(kept))

    async def runs(self) -> list[int]:
        """Return the runs that are there."""
        return await self.query("SELECT id FROM runs ORDER BY id")

    def retention(self, settings: str = "[retention]\ndays = 30\n", agents: str = AGENTS) -> Retention:
        """Return retention by some settings, as of now."""
        self.live.replace(self.config(settings, agents))
        return Retention(self.home(), self.live, self.removal(), self.metrics, NO_NOTIFICATIONS)

    def cleanup(self) -> Cleanup:
        """Return cleanup by the settings of retention, as of now."""
        return Cleanup(self.home(), self.live, NO_NOTIFICATIONS, self.mirrors(MirrorUse()), self.removal())

    def mirrors(self, use: MirrorUse) -> MirrorMaintenance:
        """Return maintenance of the mirrors that are used so."""
        return MirrorMaintenance(self.home(), self.live, use)

    def home(self) -> Home:
        return Home(self.database, self.state_dir, "instance", NOW, lambda: NOW)

    def removal(self) -> WorkspaceRemoval:
        return WorkspaceRemoval(self.home(), self.live, self.metrics)

    def figure(self, name: str) -> float:
        """Return a figure as Prometheus reads it: `agentcron_NAME`, labels included."""
        lines = self.metrics.text({}, {}, {}, {}).decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"agentcron_{name} ")).split()[-1])

    def config(self, settings: str, agents: str = AGENTS) -> Config:
        path = self.state_dir.parent / "config.toml"
        path.write_text(settings + agents)
        return load_config(path)
