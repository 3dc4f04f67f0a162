"""Rows of `schedule_skips`: upcoming due times that somebody asked to skip."""

import sqlite3
from datetime import datetime

from daemon.store.connection import Transaction
from daemon.units import format_instant


def add_skip(tx: Transaction, schedule_id: int, due: datetime, now: datetime, by: str) -> None:
    """Record that one due time is to be skipped."""
    tx.execute(
        "INSERT INTO schedule_skips (schedule_id, scheduled_for, requested_at, requested_by) VALUES (?, ?, ?, ?)",
        (schedule_id, format_instant(due), format_instant(now), by),
    )


def remove_skip(tx: Transaction, schedule_id: int, due: datetime) -> bool:
    """Delete the request to skip a due time; return whether there was one."""
    removed = tx.execute(
        "DELETE FROM schedule_skips WHERE schedule_id = ? AND scheduled_for = ?", (schedule_id, format_instant(due))
    )
    return removed.rowcount > 0


def forget_past_skips(tx: Transaction, schedule_id: int, cursor: datetime) -> None:
    """Delete the requests for due times up to the cursor, which are decided already."""
    tx.execute(
        "DELETE FROM schedule_skips WHERE schedule_id = ? AND scheduled_for <= ?", (schedule_id, format_instant(cursor))
    )


def pending_skips(source: Transaction | sqlite3.Connection, schedule_id: int) -> list[str]:
    """Return the due times that are to be skipped, oldest first, as UTC text."""
    rows = source.execute(
        "SELECT scheduled_for FROM schedule_skips WHERE schedule_id = ? ORDER BY scheduled_for", (schedule_id,)
    )
    return [row["scheduled_for"] for row in rows]
