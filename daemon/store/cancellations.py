"""Rows of `cancellation_flags`: who asked which run to end, and how urgently."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from daemon.store.connection import Transaction
from daemon.store.unfinished_runs import unfinished_of
from daemon.units import format_instant


def flag_cancellation(
    tx: Transaction, run_id: int, now: datetime, by: str, *, at_once: bool = False, reason: str | None = None
) -> None:
    """Request the cancellation of a run; a second request can only make it more urgent."""
    tx.execute(
        "INSERT INTO cancellation_flags (run_id, requested_at, requested_by, at_once, reason) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (run_id) DO UPDATE SET at_once = max(at_once, excluded.at_once)",
        (run_id, format_instant(now), by, int(at_once), reason),
    )
    tx.changes.count("cancellation", "requested")


def flag_unfinished(tx: Transaction, schedule_id: int, now: datetime, by: str, *, at_once: bool, reason: str) -> None:
    """Request the cancellation of all active runs of a schedule."""
    for run_id in unfinished_of(tx, schedule_id):
        flag_cancellation(tx, run_id, now, by, at_once=at_once, reason=reason)


@dataclass(frozen=True)
class Flag:
    """A pending request for cancellation."""

    run_id: int
    by: str
    at_once: bool
    reason: str | None

    @property
    def explanation(self) -> str:
        """Who requested it and why."""
        return f"cancelled by {self.by}" + (f": {self.reason}" if self.reason else "")


def cancellation_flags(source: Transaction | sqlite3.Connection) -> list[Flag]:
    """Return the flags of all active runs."""
    rows = source.execute(
        "SELECT f.* FROM cancellation_flags f JOIN runs r ON r.id = f.run_id WHERE r.completed_at IS NULL"
    )
    return [_flag_from(row) for row in rows]


def flag_of(source: Transaction | sqlite3.Connection, run_id: int) -> Flag | None:
    """Return the flag of a run, None if it has none."""
    row = source.execute("SELECT * FROM cancellation_flags WHERE run_id = ?", (run_id,)).fetchone()
    return _flag_from(row) if row else None


def _flag_from(row: sqlite3.Row) -> Flag:
    return Flag(row["run_id"], row["requested_by"], bool(row["at_once"]), row["reason"])
