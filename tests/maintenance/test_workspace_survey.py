"""The comparison of workspaces in the database with those on the disk: what is wrong with one costs that one only."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

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
