"""Rows of `workspaces`: the clones that runs of git environments work in."""

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from daemon.errors import DamagedRowError
from daemon.model import RunStatus
from daemon.rules.cleanup import Candidate
from daemon.rules.workspace_folders import folder_at, schedule_of_folder
from daemon.store.connection import Transaction
from daemon.store.rows import row_of, shown
from daemon.units import format_instant, parse_instant

_SELECT = (
    "SELECT w.run_id, w.environment, w.path, w.state, w.kept, w.created_at, w.removed_at, w.bytes, "
    f"{shown('w.note')} AS note, w.base, r.agent, r.status, r.completed_at, r.schedule_id, s.name AS schedule, "
    "s.deleted_at IS NOT NULL AS schedule_deleted "
    "FROM workspaces w JOIN runs r ON r.id = w.run_id LEFT JOIN schedules s ON s.id = r.schedule_id"
)


@dataclass(frozen=True)
class Workspace:
    """A workspace with the relevant columns of its run."""

    run_id: int
    environment: str
    path: str
    state: str
    kept: bool
    """Whether a person marked it to be kept."""
    created_at: str
    removed_at: str | None
    bytes: int | None
    note: str | None
    """Why it could not be removed."""
    base: str | None
    agent: str
    schedule: str | None
    schedule_id: int | None
    schedule_deleted: bool
    status: RunStatus
    ended_at: datetime | None
    """When its run ended; None if the run is active, or if that cannot be read."""

    @property
    def folder(self) -> str:
        """The name of its folder among the environment's workspaces; the state directory may have been moved."""
        return folder_at(self.path, self.run_id)

    @property
    def is_of_schedule(self) -> bool:
        """Whether it is in the place that its schedule keeps, which the next run makes anew."""
        return schedule_of_folder(self.folder) is not None

    @property
    def candidate(self) -> Candidate:
        """The input of the cleanup rules; an agent's runs without a schedule count together."""
        source, left = f"{self.agent}/{self.schedule_id or ''}", self.is_of_schedule and self.schedule_deleted
        return Candidate(self.run_id, source, self.status, self.kept, self.ended_at, left)


def workspace_from(row: sqlite3.Row) -> Workspace:
    """Return the Workspace in a row of the query; raise DamagedRowError."""
    with row_of(f"run {row['run_id']}"):
        return Workspace(
            run_id=row["run_id"],
            environment=row["environment"],
            path=row["path"],
            state=row["state"],
            kept=bool(row["kept"]),
            created_at=row["created_at"],
            removed_at=row["removed_at"],
            bytes=row["bytes"],
            note=row["note"],
            base=row["base"],
            agent=row["agent"],
            schedule=row["schedule"],
            schedule_id=row["schedule_id"],
            schedule_deleted=bool(row["schedule_deleted"]),
            status=RunStatus(row["status"]),
            ended_at=_instant_in(row["completed_at"]),
        )


def _instant_in(text: str | None) -> datetime | None:
    """Return an instant, None without one or if its row is damaged."""
    try:
        return parse_instant(text) if text else None
    except ValueError:
        return None


def add_workspace(
    tx: Transaction, run_id: int, environment: str, path: Path, now: datetime, base: str | None = None
) -> None:
    """Record the workspace of a run; a second preparation replaces the first."""
    tx.execute(
        "INSERT INTO workspaces (run_id, environment, path, state, created_at, base) "
        "VALUES (?, ?, ?, 'present', ?, ?) ON CONFLICT (run_id) DO UPDATE SET environment = excluded.environment, "
        "path = excluded.path, state = 'present', created_at = excluded.created_at, base = excluded.base, "
        "removed_at = NULL, bytes = NULL, note = NULL",
        (run_id, environment, str(path), format_instant(now), base),
    )


def get_workspace(source: Transaction | sqlite3.Connection, run_id: int) -> Workspace | None:
    """Return the workspace of a run, None if it never had one."""
    row = source.execute(f"{_SELECT} WHERE w.run_id = ?", (run_id,)).fetchone()
    return workspace_from(row) if row else None


def workspace_in(source: Transaction | sqlite3.Connection, environment: str, folder: str) -> Workspace | None:
    """Return the workspace that is in a folder of an environment, None if none is known to be there."""
    return next((one for one in present_workspaces(source, environment) if one.folder == folder), None)


def is_at(source: Transaction | sqlite3.Connection, run_id: int, environment: str, folder: str) -> bool:
    """Return whether the workspace of a run is in a folder of an environment, or was there last."""
    known = get_workspace(source, run_id)
    return known is not None and (known.environment, known.folder) == (environment, folder)


def set_path(tx: Transaction, run_id: int, path: Path) -> None:
    """Record where the workspace of a run is now."""
    tx.execute("UPDATE workspaces SET path = ? WHERE run_id = ?", (str(path), run_id))


def present_workspaces(source: Transaction | sqlite3.Connection, environment: str | None = None) -> list[Workspace]:
    """Return the workspaces that exist, of one environment or all, oldest run first.

    Those of damaged rows are left out; `doctor` names them.
    """
    found: list[Workspace] = []
    for row in source.execute(
        f"{_SELECT} WHERE w.state = 'present' AND (?1 IS NULL OR w.environment = ?1) ORDER BY w.run_id", (environment,)
    ):
        with contextlib.suppress(DamagedRowError):
            found.append(workspace_from(row))
    return found


def by_environment(workspaces: Iterable[Workspace]) -> dict[str, list[Workspace]]:
    """Group workspaces by environment, in the given order."""
    found: dict[str, list[Workspace]] = {}
    for workspace in workspaces:
        found.setdefault(workspace.environment, []).append(workspace)
    return found


def count_workspaces(source: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Return the number of existing workspaces and their bytes, by environment."""
    rows = source.execute(
        "SELECT environment, count(*) AS n, CAST(total(bytes) AS INTEGER) AS bytes FROM workspaces "
        "WHERE state = 'present' GROUP BY environment"
    )
    return {row["environment"]: (row["n"], row["bytes"]) for row in rows}


def saved_work(source: Transaction | sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Return how many runs have work that was saved from their workspaces, and its bytes, by environment."""
    rows = source.execute(
        "SELECT environment, count(*) AS n, CAST(total(saved_bytes) AS INTEGER) AS bytes FROM workspaces "
        "WHERE saved_bytes > 0 GROUP BY environment"
    )
    return {row["environment"]: (row["n"], row["bytes"]) for row in rows}


def set_kept(tx: Transaction, run_id: int, *, kept: bool) -> None:
    """Record whether a person wants a workspace to be kept."""
    tx.execute("UPDATE workspaces SET kept = ? WHERE run_id = ?", (int(kept), run_id))


def set_bytes(tx: Transaction, sizes: dict[int, int]) -> None:
    """Record the sizes of workspaces in bytes, by run."""
    tx.executemany("UPDATE workspaces SET bytes = ? WHERE run_id = ?", ((size, run) for run, size in sizes.items()))


def set_note(tx: Transaction, run_id: int, note: str | None) -> bool:
    """Record why a workspace could not be removed; return whether the reason changed."""
    changed = tx.execute("UPDATE workspaces SET note = ?1 WHERE run_id = ?2 AND note IS NOT ?1", (note, run_id))
    return changed.rowcount > 0


def mark_removed(tx: Transaction, run_id: int, now: datetime) -> None:
    """Record that a workspace was removed."""
    tx.execute(
        "UPDATE workspaces SET state = 'removed', removed_at = ?, note = NULL WHERE run_id = ?",
        (format_instant(now), run_id),
    )


def set_saved_bytes(tx: Transaction, sizes: Mapping[int, int]) -> None:
    """Record the bytes of the work that was saved from workspaces, by run."""
    tx.executemany(
        "UPDATE workspaces SET saved_bytes = ? WHERE run_id = ?", ((size, run) for run, size in sizes.items())
    )


def unmeasured_saved_work(source: Transaction | sqlite3.Connection, limit: int) -> list[int]:
    """Return some of the runs whose saved work has not been measured: it is of an earlier version."""
    rows = source.execute("SELECT run_id FROM workspaces WHERE saved_bytes IS NULL ORDER BY run_id LIMIT ?", (limit,))
    return [row["run_id"] for row in rows]
