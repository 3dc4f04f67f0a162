"""Functions that clean up workspaces from a script, as the daemon's own cleanup does.

A task is a run, an environment one of the config; `data_dir` is the state directory, by default that of the config that
`agentcron` would use. `on_log` receives each log line. The database is only read; a running daemon notices by itself
which workspaces are gone.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemon.model import ACTIVE, DATABASE, RunStatus
from daemon.rules.cleanup import WITHOUT_ERROR, Candidate, Policy, decide_cleanup
from daemon.rules.workspace_folders import folder_at, schedule_of_folder
from daemon.units import parse_instant
from daemon.workspaces.clean import SALVAGE_MAX, clean, no_log
from daemon.workspaces.disk_usage import folder_size
from daemon.workspaces.layout import tasks_of, workspace_path
from daemon.workspaces.openat import names_in

OnLog = Callable[[str], None]


@dataclass(frozen=True)
class _Task(Candidate):
    """A run, read from the database."""

    base: str | None = None
    """The commit that its workspace started from."""
    folder: str = ""
    """The name of its workspace's folder."""


def cleanup_task_workspace(
    env_id: str, task_id: str | int, data_dir: str | Path | None = None, on_log: OnLog | None = None
) -> bool:
    """Save the unsaved work of a task's workspace and remove it; return whether nothing of it is left.

    A missing workspace counts as gone. A workspace stays if its task is active, if a process works in it, if it is
    marked keep or in the place that a schedule keeps for its runs, or if its work cannot be saved.
    """
    state_dir, log, name = _state_dir(data_dir), on_log or no_log, str(task_id)
    task = _tasks(state_dir, [name]).get(name)
    if schedule_of_folder(name if task is None else task.folder) is not None:
        log(f"[cleanup] Refusing to remove the workspace of {name}: it is in the place that its schedule keeps")
        return False
    if task is not None and (task.status in ACTIVE or task.kept) and _exists(state_dir, env_id, name):
        why = "it is marked keep" if task.kept else f"its run is {task.status}"
        log(f"[cleanup] Refusing to remove {workspace_path(state_dir, env_id, name)}: {why}")
        return False
    return clean(state_dir, env_id, name, log, base=task.base if task else None).gone


def cleanup_old_task_workspaces(
    env_id: str,
    max_age_hours: float = 24,
    data_dir: str | Path | None = None,
    on_log: OnLog | None = None,
    *,
    keep_on_error: bool = True,
    keep_errors: int = 5,
) -> int:
    """Clean up the workspaces whose tasks ended more than `max_age_hours` ago; return how many are gone.

    Workspaces of active and unknown tasks stay, and those marked keep; so do all if the age is infinite or NaN.
    With `keep_on_error` those of failed and interrupted tasks stay too, but only the newest `keep_errors` of each
    schedule. One failure does not stop the rest.
    """
    state_dir, log = _state_dir(data_dir), on_log or no_log
    names, now = _names(state_dir, env_id), datetime.now(UTC)
    tasks = _tasks(state_dir, names)
    age = _age(max_age_hours)
    policy = Policy(age, keep_on_error, keep_errors, quota=None, quota_warn=1, salvage_max=SALVAGE_MAX)
    decisions = decide_cleanup((tasks[name] for name in names if name in tasks), policy, now)
    removed = 0
    for name in names:
        task = tasks.get(name)
        if task is None:
            log(f"[cleanup] Keeping {workspace_path(state_dir, env_id, name)}: no run has this number")
        elif decisions[task.run_id].due and task.ended_at is not None:
            log(f"[cleanup] Removing old task {name} (age: {(now - task.ended_at) / timedelta(hours=1):.1f}h)")
            removed += cleanup_task_workspace(env_id, name, state_dir, log)
    if removed:
        log(f"[cleanup] Removed {removed} old task workspace(s)")
    return removed


def _age(hours: float) -> timedelta:
    """Return an age; one that is not a number, or longer than any, is reached by no workspace."""
    try:
        return timedelta(hours=hours)
    except (OverflowError, ValueError):
        return timedelta.min if hours < 0 else timedelta.max


def get_task_workspace_size(env_id: str, task_id: str | int, data_dir: str | Path | None = None) -> int:
    """Return the bytes that a task's workspace takes on the disk; 0 if it has none."""
    return folder_size(_state_dir(data_dir), (*tasks_of(env_id), str(task_id)))


def cleanup_on_task_completion(
    task_id: str | int,
    env_id: str,
    data_dir: str | Path | None = None,
    keep_on_error: bool = True,  # noqa: FBT001, FBT002 - a public signature
    on_log: OnLog | None = None,
) -> bool:
    """Clean up the workspace of a task that has ended; return whether nothing of it is left.

    With `keep_on_error` the workspace stays unless the task completed or was cancelled.
    """
    state_dir, log, name = _state_dir(data_dir), on_log or no_log, str(task_id)
    task = _tasks(state_dir, [name]).get(name)
    if keep_on_error and (task is None or task.status not in WITHOUT_ERROR) and _exists(state_dir, env_id, name):
        status = task.status if task is not None else "unknown"
        log(f"[cleanup] Keeping task workspace: {workspace_path(state_dir, env_id, name)} (status: {status})")
        return False
    return cleanup_task_workspace(env_id, name, state_dir, log)


def _state_dir(data_dir: str | Path | None) -> Path:
    if data_dir is not None:
        return Path(data_dir)
    from daemon.config.loading import find_config, load_config  # noqa: PLC0415 - most callers pass the folder
    from daemon.config.paths import state_dir  # noqa: PLC0415

    return state_dir(load_config(find_config(None)))


def _exists(state_dir: Path, env_id: str, name: str) -> bool:
    return name in _names(state_dir, env_id)


def _names(state_dir: Path, env_id: str) -> list[str]:
    try:
        return names_in(state_dir, *tasks_of(env_id))
    except OSError:
        return []


def _tasks(state_dir: Path, names: list[str]) -> dict[str, _Task]:
    """Return the runs that exist in the database, by number; none if there is no database."""
    path = state_dir / DATABASE
    if not path.exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        rows = connection.execute(
            "SELECT r.id, r.agent, r.schedule_id, r.status, r.completed_at, coalesce(w.kept, 0), w.base, "
            "CASE WHEN w.state = 'present' THEN w.path END FROM runs r "
            "LEFT JOIN workspaces w ON w.run_id = r.id WHERE r.id IN (SELECT CAST(value AS INTEGER) FROM json_each(?))",
            (json.dumps([name for name in names if name.isascii() and name.isdigit()]),),
        ).fetchall()
    return {str(row[0]): _task(*row) for row in rows}


def _task(
    number: int,
    agent: str,
    schedule: int | None,
    status: str,
    ended_at: str | None,
    kept: int,
    base: str | None,
    path: str | None,
) -> _Task:
    end = parse_instant(ended_at) if ended_at else None
    source, folder = f"{agent}/{schedule or ''}", folder_at(path or "", number)
    return _Task(number, source, RunStatus(status), bool(kept), end, base=base, folder=folder)
