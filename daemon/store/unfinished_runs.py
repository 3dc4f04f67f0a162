"""The runs that have not ended: all of them, or those of one agent or schedule."""

import sqlite3
from collections.abc import Iterable

from daemon.errors import DamagedRowError
from daemon.store.connection import Transaction
from daemon.store.runs import SELECT_RUNS, SELECT_RUNS_WITHOUT_INPUT, Run, run_from


def count_active(source: Transaction | sqlite3.Connection) -> dict[str, int]:
    """Return how many active runs there are, by status."""
    rows = source.execute("SELECT status, count(*) AS n FROM runs WHERE completed_at IS NULL GROUP BY 1")
    return {row["status"]: row["n"] for row in rows}


def count_unfinished(tx: Transaction, schedule_id: int) -> tuple[int, int]:
    """Return how many active runs a schedule has, and how many of them are buffered."""
    row = tx.execute(
        "SELECT count(*) AS n, coalesce(sum(held AND status = 'pending'), 0) AS waiting FROM runs "
        "WHERE schedule_id = ? AND completed_at IS NULL",
        (schedule_id,),
    ).fetchone()
    return int(row["n"]), int(row["waiting"])


def begun_of(tx: Transaction, schedule_id: int) -> list[int]:
    """Return the running and suspended runs of a schedule, oldest first."""
    rows = tx.execute(
        "SELECT id FROM runs WHERE schedule_id = ? AND completed_at IS NULL AND status <> 'pending' ORDER BY id",
        (schedule_id,),
    )
    return [int(row["id"]) for row in rows]


def user_of_kept_workspace(source: Transaction | sqlite3.Connection, schedule_id: int, besides: int) -> int | None:
    """Return the run that works in the place which a schedule keeps, other than one; None if none does."""
    row = source.execute(
        "SELECT id FROM runs WHERE schedule_id = ? AND completed_at IS NULL AND status = 'running' AND id <> ? "
        "AND json_extract(settings, '$.keeps_workspace') ORDER BY id LIMIT 1",
        (schedule_id, besides),
    ).fetchone()
    return None if row is None else int(row["id"])


def unfinished_of(tx: Transaction, schedule_id: int) -> list[int]:
    """Return the active runs of a schedule, oldest first."""
    rows = tx.execute("SELECT id FROM runs WHERE schedule_id = ? AND completed_at IS NULL ORDER BY id", (schedule_id,))
    return [int(row["id"]) for row in rows]


def running_processes(source: Transaction | sqlite3.Connection, boot_id: str) -> list[tuple[int, int, int]]:
    """Return number, pid and start time of the process of all runs that are running and have one, oldest first.

    Processes of another boot than that have ended.
    """
    rows = source.execute(
        "SELECT id, pid, pid_started FROM runs WHERE completed_at IS NULL AND status = 'running' "
        "AND boot_id = ? AND pid IS NOT NULL AND pid_started IS NOT NULL ORDER BY id",
        (boot_id,),
    )
    return [(row["id"], row["pid"], row["pid_started"]) for row in rows]


def started_runs(source: Transaction | sqlite3.Connection) -> tuple[list[Run], dict[int, DamagedRowError]]:
    """Return all runs that are running or suspended, oldest first, and why others of them cannot be read."""
    rows = source.execute(
        f"{SELECT_RUNS} WHERE r.completed_at IS NULL AND r.status IN ('running', 'suspended') ORDER BY r.id"
    )
    return readable_runs(rows)


def readable_runs(rows: Iterable[sqlite3.Row]) -> tuple[list[Run], dict[int, DamagedRowError]]:
    """Return the runs in rows of SELECT_RUNS that can be read, and the error of each other one by its number."""
    runs: list[Run] = []
    failures: dict[int, DamagedRowError] = {}
    for row in rows:
        try:
            runs.append(run_from(row))
        except DamagedRowError as error:
            failures[row["id"]] = error
    return runs, failures


def supervisors_of(source: Transaction | sqlite3.Connection) -> dict[int, tuple[str | None, int | None, int | None]]:
    """Return boot id, pid and start time of the supervisors of the running runs, by run; None before it is known."""
    rows = source.execute(
        "SELECT id, boot_id, pid, pid_started FROM runs WHERE completed_at IS NULL AND status = 'running'"
    )
    return {row["id"]: (row["boot_id"], row["pid"], row["pid_started"]) for row in rows}


def pending_runs(source: Transaction | sqlite3.Connection) -> list[Run]:
    """Return all runs that wait in the queue without their inputs, oldest first."""
    rows = source.execute(f"{SELECT_RUNS_WITHOUT_INPUT} WHERE r.status = 'pending' ORDER BY r.id")
    return [run_from(row) for row in rows]


def forbid_further_attempts(tx: Transaction) -> None:
    """Let no active run be followed by another attempt, whatever its settings say and however it ends.

    Without pools that its limits close, one that hits a limit waits for no other attempt; and one that was given no
    session has refused none.
    """
    tx.execute(
        "UPDATE runs SET resumed_session = NULL, settings = json_set(settings, '$.attempts', 1, "
        "'$.on_interrupt', 'fail', '$.limit_pools', json('[]')) "
        "WHERE completed_at IS NULL AND settings IS NOT NULL"
    )


def active_runs(tx: Transaction, agent: str | None = None, schedule: str | None = None) -> list[int]:
    """Return the numbers of the runs that have not ended, oldest first: of one agent, one schedule's address or all."""
    rows = tx.execute(
        "SELECT r.id FROM runs r LEFT JOIN schedules s ON s.id = r.schedule_id WHERE r.completed_at IS NULL "
        "AND (?1 IS NULL OR r.agent = ?1) AND (?2 IS NULL OR r.agent || '/' || s.name = ?2) ORDER BY r.id",
        (agent, schedule),
    )
    return [row["id"] for row in rows]
