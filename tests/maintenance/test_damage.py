"""A damaged database ends a sweep at once, and the daemon with it: nothing is removed by what such a database says."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from daemon.errors import StoreDamagedError
from daemon.maintenance import workspace_removal
from daemon.maintenance.cleanup import CleanupResult
from daemon.store.database import Database
from daemon.store.workspaces import present_workspaces
from tests.support.database import damaged
from tests.support.retention_history import History


async def damage(database: Database, table: str) -> None:
    """Damage the first page of a table below an open database, whose connections have not read it yet."""

    def first_page(connection: sqlite3.Connection) -> int:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        return int(connection.execute(sql, (table,)).fetchone()[0])

    damaged(database.path, await database._writer.run(first_page))


async def test_a_sweep_removes_no_folder_once_the_database_is_found_to_be_damaged(history: History) -> None:
    folder = history.state_dir / "runs" / "77"
    (folder / "artifacts").mkdir(parents=True)
    await damage(history.database, "fires")
    with pytest.raises(StoreDamagedError):
        await history.retention().sweep()
    assert folder.exists()
    assert history.database.damaged.is_set()


async def test_damage_that_a_separate_connection_finds_ends_the_daemon(history: History) -> None:
    await damage(history.database, "fires")
    async with history.database.aside() as aside:
        with pytest.raises(StoreDamagedError):
            await aside.read(lambda connection: connection.execute("SELECT * FROM fires").fetchall())
    assert history.database.damaged.is_set()


async def test_damage_that_a_deletion_finds_ends_the_daemon(history: History) -> None:
    await damage(history.database, "fires")
    with pytest.raises(StoreDamagedError):
        await history.database.write_without_keys(lambda tx: tx.execute("DELETE FROM fires WHERE decided_at = 'x'"))
    assert history.database.damaged.is_set()


async def test_damage_found_while_a_workspace_is_removed_ends_the_sweep(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def damaged_meanwhile(_: Path) -> AsyncIterator[SimpleNamespace]:
        raise StoreDamagedError("the database is damaged (for a test)")
        yield

    run = await history.run()
    await history.workspace(run, "present", kept=False)
    retention = history.retention()
    [workspace] = await history.database.read(present_workspaces)
    monkeypatch.setattr(workspace_removal, "workspace_helper", damaged_meanwhile)
    with pytest.raises(StoreDamagedError):
        await history.cleanup()._sweep_one(workspace, CleanupResult())
    with pytest.raises(StoreDamagedError):
        await retention._release(run)
