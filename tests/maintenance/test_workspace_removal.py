"""Removals of one workspace that meet: only one of them is done, and what it saved stays known."""

import asyncio
import contextlib
import json
import os
import sqlite3
from pathlib import Path

from daemon.agents.process.supervisor import tree
from daemon.maintenance.cleanup import CleanupResult
from daemon.maintenance.workspace_removal import Discard, WorkspaceRemoval
from daemon.store.workspaces import Workspace, get_workspace
from tests.support.retention_history import History
from tests.support.waiting import wait_until


async def with_work(history: History) -> tuple[Workspace, Path]:
    """Return the workspace of a run that ended, and its folder, in which is a file."""
    run = await history.run()
    await history.workspace(run, "present", kept=False)
    folder = history.state_dir / "environments/e/tasks" / str(run)
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine\n")
    found = await history.database.read(lambda c: get_workspace(c, run))
    assert found is not None
    return found, folder


async def saved_in_events(history: History, run: int) -> list[int]:
    """Return how many files each removal of a workspace saved."""
    sql = "SELECT data FROM events WHERE run_id = ? AND type = 'workspace_cleaned'"
    return [json.loads(data)["saved"]["files"] for data in await history.query(sql, run)]


def helpers(others: set[tree.Process]) -> set[tree.Process]:
    """Return the processes below this one, without some others."""
    return set(tree.descendants(os.getpid())) - others


async def test_a_workspace_that_a_sweep_has_listed_is_not_removed_again_after_a_discard(history: History) -> None:
    listed, _ = await with_work(history)
    cleanup, removal = history.cleanup(), history.removal()
    assert await removal.discard(listed.run_id, Discard("root", None)) is None
    result = CleanupResult(dry_run=False)
    await cleanup._sweep_one(listed, result)
    assert (result.removed, result.failed) == ([], {})
    assert await saved_in_events(history, listed.run_id) == [1]
    assert await removal.release(listed.run_id) is None


async def test_a_removal_counts_as_under_way_until_it_is_recorded(history: History) -> None:
    workspace, folder = await with_work(history)
    removal = history.removal()
    before = helpers(set())
    with contextlib.closing(sqlite3.connect(history.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(removal.discard(workspace.run_id, Discard("root", None)))
        await asyncio.to_thread(wait_until, lambda: not folder.exists(), what="the removal")
        await asyncio.to_thread(wait_until, lambda: not helpers(before), what="the end of the helper")
        assert await removal.remove(workspace, None) == "it is already being removed"
        other.execute("ROLLBACK")
        assert await first is None
    assert await saved_in_events(history, workspace.run_id) == [1]


async def test_a_place_in_which_a_run_makes_its_workspace_is_left_alone(history: History) -> None:
    run = await history.run()
    await history.workspace(run, "present", kept=False)
    await history.execute("UPDATE workspaces SET path = '/elsewhere/tasks/schedule-1'")
    workspace = await history.database.read(lambda c: get_workspace(c, run))
    assert workspace is not None
    home = history.home()
    removal = WorkspaceRemoval(home, history.live, history.metrics)
    (history.state_dir / "environments/e/tasks/schedule-1").mkdir(parents=True)
    async with home.turn("e", "schedule-1"):
        assert "another run of its schedule" in str(await removal.remove(workspace, None))
    assert await removal.remove(workspace, None) is None
    assert not (history.state_dir / "environments/e/tasks/schedule-1").exists()


async def test_a_workspace_that_was_moved_since_it_was_listed_is_left_alone(history: History) -> None:
    run = await history.run(schedule=1)
    tasks = history.state_dir / "environments/e/tasks"
    for name in ("schedule-1", str(run)):
        (tasks / name).mkdir(parents=True)
    await history.workspace(run, "present", kept=False, path=str(tasks / "schedule-1"))
    listed = await history.database.read(lambda c: get_workspace(c, run))
    assert listed is not None
    await history.execute("UPDATE workspaces SET path = ?", str(tasks / str(run)))
    removal = history.removal()
    assert await removal.remove(listed, None) == "it has just been moved"
    assert {place.name for place in tasks.iterdir()} == {"schedule-1", str(run)}
    assert await removal.discard(run, Discard("root", None)) is None
    assert [place.name for place in tasks.iterdir()] == ["schedule-1"]


async def test_a_workspace_in_quarantine_is_not_in_the_place_that_its_schedule_keeps(history: History) -> None:
    run = await history.run(schedule=1)
    place = history.state_dir / "environments/e/tasks/schedule-1"
    place.mkdir(parents=True)
    quarantined = str(history.state_dir / "environments/e/quarantine/schedule-1")
    await history.workspace(run, "present", kept=False, path=quarantined)
    assert await history.removal().discard(run, Discard("root", None)) is None
    assert place.exists()
