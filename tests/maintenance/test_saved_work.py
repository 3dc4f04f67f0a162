"""What is known of saved work, whatever agents, damage and attempts that were cut off have made of it."""

import contextlib
import json
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from daemon.config.schema import Config
from daemon.doctor.workspaces import check_workspaces
from daemon.runs.workspace import record_prepared, record_removed
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.runs import get_run
from daemon.store.workspaces import present_workspaces, unmeasured_saved_work
from daemon.views.runs import run_details
from daemon.workspaces.jobs import CleanedWorkspace, PreparedWorkspace, SavedWork
from tests.support.retention_history import NOW, History


async def shown(history: History, run: int) -> dict[str, Any] | None:
    """Return what `runs show` says was saved."""
    row = await history.database.read(lambda c: get_run(c, run))
    assert row is not None
    details = await history.database.read(lambda c: run_details(c, row, history.state_dir, Config()))
    assert details["workspace"] is not None
    work: dict[str, Any] | None = details["workspace"]["saved"]
    return work


async def test_work_saved_of_an_earlier_attempt_is_counted_and_shown(history: History) -> None:
    run, path = await history.run(), Path("/state/tasks/1")
    saved = SavedWork("artifacts/saved-work", commits=1, stored=4096, restore=("git init",))
    removed = CleanedWorkspace(gone=False, reason="it is busy", in_trash=True, saved=saved)
    await history.database.write(lambda tx: record_removed(tx, run, "site", path, removed, NOW))
    assert await history.query("SELECT saved_bytes FROM workspaces WHERE run_id = ?", run) == [4096]
    [(kind, data)] = await history.query("SELECT type, data FROM events WHERE run_id = ?", run)
    assert (kind, json.loads(data)["left_in_trash"]) == ("workspace_cleaned", "it is busy")
    work = await shown(history, run)
    assert work is not None
    assert work["restore"] == ["git init"]
    prepared = PreparedWorkspace(path, "ab" * 20)
    await history.database.write(lambda tx: record_prepared(tx, run, "site", prepared, NOW))
    assert await history.query("SELECT state, saved_bytes FROM workspaces") == [("present", 4096)]


async def test_saved_work_behind_a_link_is_measured_once(history: History) -> None:
    """Earlier versions did not measure it, and an agent may have replaced the folder of its artifacts."""
    linked, closed, intact = [await history.run() for _ in range(3)]
    for run in (linked, closed, intact):
        await history.workspace(run, "removed", kept=False)
        (history.state_dir / "runs" / str(run)).mkdir(parents=True)
    await history.execute("UPDATE workspaces SET saved_bytes = NULL")
    (history.state_dir / "runs" / str(linked) / "artifacts").symlink_to("/tmp")
    (history.state_dir / "runs" / str(closed) / "artifacts").touch()
    saved = history.state_dir / "runs" / str(intact) / "artifacts" / "saved-work"
    saved.mkdir(parents=True)
    (saved / "work.bundle").write_bytes(b"x" * 4096)
    await history.cleanup().sweep()
    assert await history.database.read(lambda c: unmeasured_saved_work(c, 10)) == []
    assert await history.query("SELECT saved_bytes > 0 FROM workspaces ORDER BY run_id") == [0, 0, 1]


async def test_a_workspace_whose_run_is_damaged_does_not_end_sweep_or_doctor(history: History) -> None:
    lost, bad = await history.run(), await history.run()
    for run in (lost, bad):
        await history.workspace(run, "present", kept=False)
    folder = history.state_dir / "environments" / "e" / "tasks" / str(bad)
    folder.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(history.database.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE runs SET status = 'no such' WHERE id = ?", (bad,))
    await history.execute("UPDATE workspaces SET note = 'it is busy' WHERE run_id = ?", lost)
    findings = await history.database.read(lambda c: [*check_workspaces(c, history.state_dir)])
    assert ["it is busy" in found.what for found in findings] == [True]
    await history.cleanup().sweep()
    assert await history.query("SELECT run_id FROM workspaces WHERE state = 'removed'") == [lost]
    assert [one.run_id for one in await history.database.read(present_workspaces)] == []
    assert folder.exists()


async def test_a_removal_that_saves_nothing_does_not_hide_what_an_earlier_one_saved(history: History) -> None:
    run = await history.run()
    await history.workspace(run, "removed", kept=False)
    saved = asdict(SavedWork("artifacts/saved-work", commits=1, restore=("git init",)))
    nothing = asdict(SavedWork(ignored=3))

    async def shown_after(found: object) -> dict[str, Any] | None:
        def act(tx: Transaction) -> None:
            add_event(tx, run, NOW, "workspace_cleaned", {"saved": found})

        await history.database.write(act)
        return await shown(history, run)

    assert await shown_after(None) is None
    work = await shown_after(nothing)
    assert work is not None
    assert work["ignored"] == nothing["ignored"]
    for later in (saved, nothing, None):
        work = await shown_after(later)
        assert work is not None
        assert work["restore"] == ["git init"]
