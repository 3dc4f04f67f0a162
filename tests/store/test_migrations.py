"""Migrations: numbered, each in one transaction, after a backup; what is in the database comes through them."""

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.errors import StoreError
from daemon.model import DATABASE
from daemon.store.connection import Transaction, connect
from daemon.store.migrate import migrate, migrations
from daemon.store.state_dir import open_state
from daemon.store.workspaces import saved_work, set_saved_bytes, unmeasured_saved_work

NOW = datetime(2026, 11, 21, tzinfo=UTC)
OLDEST_WITH_RUNS = """
INSERT INTO runs (name, agent, trigger, scheduled_for, status, created_at, updated_at, started_at, completed_at,
    display_name, creator, idempotency_key, queue_class)
    VALUES ('one', 'a', 'manual', 'x', 'completed', 'x', 'x', 'x', 'x', 'x', 'x', 'k1', 0),
    ('two', 'a', 'manual', 'x', 'failed', 'x', 'x', 'x', 'x', 'x', 'x', 'k2', 0),
    ('gone', 'a', 'manual', 'x', 'failed', 'x', 'x', 'x', 'x', 'x', 'x', 'k3', 0);
UPDATE runs SET previous_run_id = 1 WHERE id = 2;
DELETE FROM runs WHERE name = 'gone';
INSERT INTO events (run_id, number, at, type) VALUES (1, 1, 'x', 'created'), (2, 1, 'x', 'created');
INSERT INTO steps (run_id, name, started_at) VALUES (1, 'work', 'x');
"""

REPORTED = {"failure_kind", "session", "usage_state", "denials", "resumed_session"}
ADDED = REPORTED | {"pools", "remote", "memory_peak_bytes", "cpu_seconds"}
"""Columns that later migrations added to these tables."""


def create(folder: Path) -> None:
    open_state(folder, NOW, accept_data_loss=False)


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    create(tmp_path)
    with contextlib.closing(connect(tmp_path / DATABASE)) as connection:
        connection.execute("PRAGMA user_version = 9999")
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(StoreError, match="newer version"):
        open_state(tmp_path, NOW, accept_data_loss=False)
    assert (tmp_path / DATABASE).read_bytes() == before


def test_a_migration_comes_after_a_backup_and_is_undone_when_it_fails(tmp_path: Path) -> None:
    create(tmp_path)
    path = tmp_path / DATABASE
    steps = {
        **migrations(),
        9000: "CREATE TABLE fresh (x TEXT) STRICT;",
        9001: "CREATE TABLE half (x TEXT) STRICT; oops;",
    }
    with contextlib.closing(connect(path)) as connection:
        with pytest.raises(StoreError, match="9001 failed"):
            migrate(connection, path, steps)
        tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_schema")}
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 9000
    assert "fresh" in tables
    assert "half" not in tables
    backup = tmp_path / "state.db.before-9000"
    assert backup.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(connect(backup)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_database_of_the_first_schema_keeps_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    path.touch()
    steps = migrations()
    with contextlib.closing(connect(path)) as connection:
        migrate(connection, path, {1: steps[1]})
        connection.executescript(OLDEST_WITH_RUNS)
        before = everything(connection)
        migrate(connection, path, steps)
        assert everything(connection) == before
        assert connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'runs'").fetchone()["seq"] == 3
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO steps (run_id, name, started_at) VALUES (99, 'work', 'x')")
        connection.execute("DELETE FROM runs WHERE id = 2")
        assert [row["run_id"] for row in connection.execute("SELECT run_id FROM events")] == [1]


def test_the_ledger_of_earlier_versions_is_kept_and_takes_what_a_limit_skips(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    path.touch()
    steps = migrations()
    with contextlib.closing(connect(path)) as connection:
        migrate(connection, path, {number: step for number, step in steps.items() if number < 14})
        connection.execute(
            "INSERT INTO schedules (agent, name, source, every_ms, timezone, overlap, catchup, catchup_window_ms, "
            "creator, cursor, created_at, updated_at) VALUES ('a', 's', 'declared', 1000, 'UTC', 'skip', 'latest', 1, "
            "'config', 'x', 'x', 'x')"
        )
        row = (1, "x", "skipped_missed", "why", None, "y", "z", 7, 3)
        connection.execute("INSERT INTO fires VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        before = dict(connection.execute("SELECT * FROM fires").fetchone())
        migrate(connection, path, steps)
        assert dict(connection.execute("SELECT * FROM fires").fetchone()) == before
        columns = "schedule_id, scheduled_for, outcome, decided_at"
        skipped = f"INSERT INTO fires ({columns}) VALUES (?, 'y', 'skipped_quota', '')"
        connection.execute(skipped, (1,))
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(skipped, (99,))


def everything(connection: sqlite3.Connection) -> dict[str, list[dict[str, object]]]:
    """Return what the tables hold, less what later schemas added."""
    return {
        table: [
            {key: value for key, value in dict(row).items() if key not in ADDED}
            for row in connection.execute(f"SELECT * FROM {table}")
        ]
        for table in ("runs", "events", "steps")
    }


def test_a_migration_that_would_orphan_rows_is_undone(tmp_path: Path) -> None:
    create(tmp_path)
    path = tmp_path / DATABASE
    with contextlib.closing(connect(path)) as connection:
        connection.executescript(OLDEST_WITH_RUNS)
        with pytest.raises(StoreError, match="refer to missing rows"):
            migrate(connection, path, {**migrations(), 9000: "DELETE FROM runs;"})
        assert connection.execute("SELECT count(*) FROM runs").fetchone()[0] == 2


def test_saved_work_of_earlier_versions_is_to_be_measured(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    path.touch()
    steps = migrations()
    cleaned = {
        "saved": '{"saved": {"folder": "artifacts/saved-work", "bytes": 5}}',
        "clean": '{"saved": {"folder": null}}',
        "lost": '{"saved": null}',
        "damaged": '{"saved": {"folder"',
    }
    with contextlib.closing(connect(path)) as connection:
        migrate(connection, path, {number: step for number, step in steps.items() if number < 10})
        for number, (name, data) in enumerate(cleaned.items(), 1):
            connection.execute(
                "INSERT INTO runs (id, name, agent, trigger, scheduled_for, status, created_at, updated_at, "
                "started_at, completed_at, display_name, creator, idempotency_key, queue_class) "
                "VALUES (?1, ?2, 'a', 'manual', 'x', 'completed', 'x', 'x', 'x', 'x', 'x', 'x', ?2, 0)",
                (number, name),
            )
            connection.execute(
                "INSERT INTO workspaces (run_id, environment, path, state, created_at) "
                "VALUES (?, 'e', '', 'removed', '')",
                (number,),
            )
            connection.execute("INSERT INTO events VALUES (?, 1, 'x', 'workspace_cleaned', ?)", (number, data))
        migrate(connection, path, steps)
        assert unmeasured_saved_work(connection, 100) == [1]
        assert saved_work(connection) == {}
        set_saved_bytes(Transaction(connection), {1: 7})
        assert unmeasured_saved_work(connection, 100) == []
        assert saved_work(connection) == {"e": (1, 7)}


def test_usage_of_earlier_versions_is_exact_where_there_is_any(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    path.touch()
    steps = migrations()
    with contextlib.closing(connect(path)) as connection:
        migrate(connection, path, {number: step for number, step in steps.items() if number < 13})
        connection.executescript(OLDEST_WITH_RUNS)
        connection.execute("UPDATE runs SET output_tokens = 0 WHERE id = 1")
        migrate(connection, path, steps)
        found = connection.execute("SELECT usage_state, denials, failure_kind FROM runs ORDER BY id").fetchall()
        assert [tuple(row) for row in found] == [("exact", 0, None), (None, 0, None)]
