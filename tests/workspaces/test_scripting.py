"""The functions for scripts: they refuse what the daemon would refuse, and log what they do."""

import errno
import fcntl
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.model import DueTime, RunStatus, Trigger
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.store.runs import NewRun, create_run
from daemon.store.state_dir import open_state
from daemon.store.workspaces import add_workspace, set_kept
from daemon.units import format_instant
from daemon.workspaces import (
    cleanup_old_task_workspaces,
    cleanup_on_task_completion,
    cleanup_task_workspace,
    get_task_workspace_size,
)
from tests.support.git_site import GitSite

NOW = datetime.now(UTC)


async def run_with_workspace(
    database: Database, site: GitSite, status: RunStatus, hours: float, *, kept: bool = False
) -> int:
    """Write a run that ended so many hours ago, and make its workspace."""

    def write(tx: Transaction) -> int:
        number = int(tx.execute("SELECT count(*) AS n FROM runs").fetchone()["n"])
        new = NewRun(
            name=f"run-{number}",
            agent="a",
            schedule_id=None,
            trigger=Trigger.MANUAL,
            scheduled_for=DueTime(NOW),
            display_name="x",
            creator="root",
            input_author="user",
            input_content="",
            task_params="{}",
            task_metadata="{}",
            instance="x",
        )
        run, _ = create_run(tx, new, NOW)
        end = format_instant(NOW - timedelta(hours=hours))
        at = "started_at = ?1" + (", completed_at = ?1" if status not in {"pending", "running", "suspended"} else "")
        tx.execute(f"UPDATE runs SET status = ?2, {at} WHERE id = ?3", (end, status, run))
        add_workspace(tx, run, "site", site.tasks / str(run), NOW, site.first)
        set_kept(tx, run, kept=kept)
        return run

    run = await database.write(write)
    site.prepare(run)
    return run


@pytest.fixture
def said() -> list[str]:
    return []


async def test_one_workspace_is_cleaned_and_a_missing_one_is_success(site: GitSite, said: list[str]) -> None:
    async with open_state(site.state, NOW, accept_data_loss=False) as database:
        run = await run_with_workspace(database, site, RunStatus.COMPLETED, 0)
        assert get_task_workspace_size("site", run, site.state) > 10_000
        (site.tasks / str(run) / "mine.txt").write_text("mine\n")
        assert cleanup_task_workspace("site", str(run), str(site.state), said.append)
    assert said[0] == f"[cleanup] Removing task workspace: {site.tasks / str(run)}"
    assert said[-1] == "[cleanup] Workspace cleaned up"
    assert (site.saved(run) / "work.bundle").exists()
    assert cleanup_task_workspace("site", run, site.state, said.append)
    assert cleanup_task_workspace("nowhere", "1", site.state)
    assert get_task_workspace_size("site", run, site.state) == 0


@pytest.mark.parametrize("status", ["pending", "running", "suspended"])
async def test_an_active_task_keeps_its_workspace(site: GitSite, said: list[str], status: str) -> None:
    async with open_state(site.state, NOW, accept_data_loss=False) as database:
        run = await run_with_workspace(database, site, RunStatus(status), 100)
        assert not cleanup_task_workspace("site", run, site.state, said.append)
        assert not cleanup_on_task_completion(run, "site", site.state, keep_on_error=False, on_log=said.append)
        assert cleanup_old_task_workspaces("site", 1, site.state, said.append) == 0
    assert (site.tasks / str(run)).exists()
    assert f"Refusing to remove {site.tasks / str(run)}: its run is {status}" in said[0]


async def test_one_that_a_person_keeps_stays(site: GitSite, said: list[str]) -> None:
    async with open_state(site.state, NOW, accept_data_loss=False) as database:
        run = await run_with_workspace(database, site, RunStatus.COMPLETED, 48, kept=True)
    assert not cleanup_task_workspace("site", run, site.state, said.append)
    assert (site.tasks / str(run)).exists()
    assert "it is marked keep" in said[-1]


async def test_age_is_that_of_the_run_and_not_of_the_files(site: GitSite, said: list[str]) -> None:
    async with open_state(site.state, NOW, accept_data_loss=False) as database:
        old = await run_with_workspace(database, site, RunStatus.COMPLETED, 48)
        young = await run_with_workspace(database, site, RunStatus.COMPLETED, 2)
        kept = await run_with_workspace(database, site, RunStatus.COMPLETED, 48, kept=True)
        used = await run_with_workspace(database, site, RunStatus.CANCELLED, 48)
        for run, hours in ((old, 0), (young, 100), (used, 100)):
            os.utime(site.tasks / str(run), (NOW.timestamp() - hours * 3600,) * 2)
        (site.tasks / "stranger").mkdir()
        (site.tasks / "999").mkdir()
        holder = os.open(site.tasks / str(used), os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert cleanup_old_task_workspaces("site", 24, site.state, said.append) == 1
        os.close(holder)
        assert cleanup_old_task_workspaces("site", data_dir=site.state, on_log=said.append) == 1
    assert sorted(os.listdir(site.tasks)) == sorted(["stranger", "999", str(young), str(kept)])
    assert any(line.startswith(f"[cleanup] Removing old task {old} (age: 48.") for line in said)
    assert "[cleanup] Removed 1 old task workspace(s)" in said
    assert any("Refusing to remove" in line and "a process works in it" in line for line in said)
    assert any("no run has this number" in line for line in said)


async def test_a_failed_task_keeps_its_workspace_if_configured(site: GitSite, said: list[str]) -> None:
    async with open_state(site.state, NOW, accept_data_loss=False) as database:
        failed = [await run_with_workspace(database, site, RunStatus.FAILED, 100 - hour) for hour in range(3)]
        assert not cleanup_on_task_completion(failed[0], "site", site.state, on_log=said.append)
        assert "(status: failed)" in said[0]
        assert cleanup_old_task_workspaces("site", 24, site.state, keep_errors=2) == 1
        assert not (site.tasks / str(failed[0])).exists()
        assert cleanup_on_task_completion(failed[1], "site", site.state, keep_on_error=False)
        assert cleanup_old_task_workspaces("site", 24, site.state, keep_on_error=False) == 1
        completed = await run_with_workspace(database, site, RunStatus.COMPLETED, 0)
        assert cleanup_on_task_completion(completed, "site", site.state)
    assert os.listdir(site.tasks) == []


@pytest.mark.parametrize(("env", "task"), [("site", ""), ("site", ".."), ("site", "../.."), ("", "1"), ("a/b", "1")])
def test_an_invalid_name_is_refused_and_reported(site: GitSite, said: list[str], env: str, task: str) -> None:
    site.prepare(1)
    assert not cleanup_task_workspace(env, task, site.state, said.append)
    assert said[0].startswith("[cleanup] Refusing to remove")
    assert get_task_workspace_size(env, task, site.state) == 0
    assert (site.tasks / "1").exists()


async def test_one_failure_does_not_stop_the_rest(site: GitSite, said: list[str], tmp_path: Path) -> None:
    async with open_state(site.state, NOW, accept_data_loss=False) as database:
        runs = [await run_with_workspace(database, site, RunStatus.COMPLETED, 48) for _ in range(3)]
        (site.tasks / str(runs[1])).rename(tmp_path / "moved")
        (site.tasks / str(runs[1])).symlink_to(tmp_path / "moved")
        assert cleanup_old_task_workspaces("site", 24, site.state, said.append) == 2
    assert (tmp_path / "moved" / "a.txt").exists()
    assert any(line.startswith("[cleanup] Refusing to remove") for line in said)


async def test_a_second_call_reports_what_the_trash_still_holds(
    site: GitSite, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_state(site.state, NOW, accept_data_loss=False) as database:
        run = await run_with_workspace(database, site, RunStatus.COMPLETED, 0)
    (site.tasks / str(run) / "deep" / "/".join("d" * 120)).mkdir(parents=True)
    refuse = True
    real = os.rmdir

    def rmdir(name: str, **keys: int) -> None:
        if refuse and name == "d":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
        real(name, **keys)

    monkeypatch.setattr(os, "rmdir", rmdir)
    assert not cleanup_task_workspace("site", run, site.state, said.append)
    assert not cleanup_task_workspace("site", run, site.state, said.append)
    assert not cleanup_on_task_completion(run, "site", site.state, keep_on_error=False)
    assert "stay in the trash" in said[-1]
    refuse = False
    assert cleanup_task_workspace("site", run, site.state, said.append)
    assert site.remnants() == []


@pytest.mark.parametrize(("age", "removed"), [("nan", 0), ("inf", 0), ("1e300", 0), ("-inf", 1), ("-1e300", 1)])
async def test_any_number_is_an_age(site: GitSite, age: str, removed: int) -> None:
    async with open_state(site.state, NOW, accept_data_loss=False) as database:
        await run_with_workspace(database, site, RunStatus.COMPLETED, 48)
    assert cleanup_old_task_workspaces("site", float(age), site.state) == removed
