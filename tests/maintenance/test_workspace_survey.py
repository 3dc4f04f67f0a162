"""The comparison of workspaces in the database with those on the disk: what is wrong with one costs that one only."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from daemon.maintenance.workspace_survey import WorkspaceSurvey
from daemon.store.workspaces import get_workspace
from daemon.workspaces.client import workspace_helper
from daemon.workspaces.jobs import SavedWork
from tests.support.retention_history import History


async def missing_workspace(history: History) -> tuple[int, Path]:
    """Record a workspace that is not on the disk; return its run and the folder of the run's artifacts."""
    run = await history.run()
    await history.workspace(run, "present", kept=False)
    (history.state_dir / "environments/e/tasks").mkdir(parents=True, exist_ok=True)
    folder = history.state_dir / "runs" / str(run)
    folder.mkdir(parents=True)
    return run, folder / "artifacts"


async def lost(history: History) -> list[int]:
    """Sweep; return the runs whose workspaces are recorded as lost."""
    await history.cleanup().sweep()
    return await history.query("SELECT run_id FROM events WHERE type = 'workspace_lost' ORDER BY run_id")


@pytest.mark.parametrize("kind", ["link", "file"])
async def test_a_missing_workspace_is_lost_whatever_is_in_place_of_its_artifacts(history: History, kind: str) -> None:
    run, artifacts = await missing_workspace(history)
    if kind == "link":
        artifacts.symlink_to(history.state_dir)
    else:
        artifacts.touch()
    other, _ = await missing_workspace(history)
    assert await lost(history) == [run, other]


@contextlib.contextmanager
def mounted(what: Path, on: Path) -> Iterator[None]:
    """Have a folder appear as another, too."""
    if subprocess.run(["mount", "--bind", str(what), str(on)], check=False, capture_output=True).returncode != 0:
        pytest.skip("mounts are not possible here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(on)], check=True)


async def test_saved_work_that_cannot_be_read_does_not_stop_the_sweep(history: History) -> None:
    _, artifacts = await missing_workspace(history)
    (artifacts / "saved-work/mount").mkdir(parents=True)
    (artifacts / "saved-work/saved.json").write_text(json.dumps(asdict(SavedWork())))
    other, _ = await missing_workspace(history)
    with mounted(history.state_dir, artifacts / "saved-work/mount"):
        assert await lost(history) == [other]


async def reconciled(history: History) -> list[Path]:
    """Reconcile by a list of workspaces that was read before any was recorded; return what was moved away."""
    async with workspace_helper(history.state_dir) as helper:
        await WorkspaceSurvey(history.home(), helper).reconcile([])
    return list((history.state_dir / "environments/e").glob("quarantine/*"))


async def test_a_kept_place_that_a_run_filled_since_the_sweep_began_stays(history: History) -> None:
    run = await history.run(schedule=1)
    folder = history.state_dir / "environments/e/tasks/schedule-1"
    folder.mkdir(parents=True)
    await history.workspace(run, "present", kept=False, path=str(folder))
    assert await reconciled(history) == []
    assert folder.exists()


@pytest.mark.parametrize(("status", "found"), [("running", "schedule-1"), ("completed", "1")])
async def test_what_an_active_run_left_elsewhere_is_not_taken_for_its_workspace(
    history: History, status: str, found: str
) -> None:
    run = await history.run(status, schedule=1)
    tasks = history.state_dir / "environments/e/tasks"
    (tasks / str(run)).mkdir(parents=True)
    await history.workspace(run, "present", kept=False, path=str(tasks / "schedule-1"))
    assert await reconciled(history) == []
    workspace = await history.database.read(lambda c: get_workspace(c, run))
    assert workspace is not None
    assert workspace.folder == found
