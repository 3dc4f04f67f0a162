"""The ledger: one row for each due time of each schedule, or one for many that were not started."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from daemon.model import DueTime, FireOutcome
from daemon.store.database import Transaction
from daemon.units import format_instant, parse_instant


def is_recorded(tx: Transaction, schedule_id: int, due: DueTime) -> bool:
    """Tell whether a due time has a row, or a summary covers it."""
    at = format_instant(due)
    found = tx.execute(
        "SELECT 1 FROM fires WHERE schedule_id = ?1 AND scheduled_for = ?2 UNION ALL "
        "SELECT 1 FROM fires WHERE schedule_id = ?1 AND covers_until >= ?2 AND scheduled_for <= ?2 LIMIT 1",
        (schedule_id, at),
    ).fetchone()
    return found is not None


def count_recorded(tx: Transaction, schedule_id: int, first: DueTime, last: DueTime) -> int:
    """Count the due times in first <= due <= last that have a row of their own or lie under a summary there."""
    row = tx.execute(
        "SELECT coalesce(sum(coalesce(covers_count, 1)), 0) AS n FROM fires "
        "WHERE schedule_id = ? AND scheduled_for BETWEEN ? AND ?",
        (schedule_id, format_instant(first), format_instant(last)),
    ).fetchone()
    return int(row["n"])


def record_fire(
    tx: Transaction,
    schedule_id: int,
    due: DueTime,
    outcome: FireOutcome,
    now: datetime,
    *,
    run_id: int | None = None,
    reason: str | None = None,
) -> None:
    """Write the row of one due time; raise sqlite3.IntegrityError if it has one already."""
    tx.execute(
        "INSERT INTO fires (schedule_id, scheduled_for, outcome, reason, run_id, decided_at) VALUES (?, ?, ?, ?, ?, ?)",
        (schedule_id, format_instant(due), outcome.value, reason, run_id, format_instant(now)),
    )


def record_summary(
    tx: Transaction,
    schedule_id: int,
    first: DueTime,
    last: DueTime,
    count: int,
    outcome: FireOutcome,
    now: datetime,
    reason: str,
) -> None:
    """Write one row for many due times that were not started; rows already there stay."""
    tx.execute(
        "INSERT OR IGNORE INTO fires "
        "(schedule_id, scheduled_for, outcome, reason, decided_at, covers_until, covers_count) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            schedule_id,
            format_instant(first),
            outcome.value,
            reason,
            format_instant(now),
            format_instant(last),
            count,
        ),
    )


@dataclass(frozen=True)
class Summary:
    """One row for many due times that were not started."""

    schedule_id: int
    first: DueTime
    count: int


def summaries_beyond(tx: Transaction, now: datetime) -> list[Summary]:
    """Return the summaries that reach beyond now."""
    rows = tx.execute("SELECT * FROM fires WHERE covers_until > ?", (format_instant(now),))
    return [
        Summary(row["schedule_id"], DueTime(parse_instant(row["scheduled_for"])), row["covers_count"]) for row in rows
    ]


def shorten_summary(tx: Transaction, summary: Summary, last: DueTime, count: int) -> None:
    """Have a summary cover less."""
    tx.execute(
        "UPDATE fires SET covers_until = ?, covers_count = ? WHERE schedule_id = ? AND scheduled_for = ?",
        (format_instant(last), count, summary.schedule_id, format_instant(summary.first)),
    )


def summary_over(tx: Transaction, schedule_id: int, due: DueTime) -> sqlite3.Row | None:
    """Return the summary that covers a due time."""
    row: sqlite3.Row | None = tx.execute(
        "SELECT * FROM fires WHERE schedule_id = ?1 AND covers_until >= ?2 AND scheduled_for <= ?2",
        (schedule_id, format_instant(due)),
    ).fetchone()
    return row


def outcome_of(tx: Transaction, schedule_id: int, due: DueTime) -> FireOutcome | None:
    """Return what the row of a due time's own says, None if it has none."""
    row = tx.execute(
        "SELECT outcome FROM fires WHERE schedule_id = ? AND scheduled_for = ? AND covers_until IS NULL",
        (schedule_id, format_instant(due)),
    ).fetchone()
    return FireOutcome(row["outcome"]) if row else None


def forget_fire(tx: Transaction, schedule_id: int, due: DueTime) -> None:
    """Remove the row of a due time that has not come, or whose place another row takes."""
    tx.execute("DELETE FROM fires WHERE schedule_id = ? AND scheduled_for = ?", (schedule_id, format_instant(due)))


def mark_launched(tx: Transaction, run_id: int) -> None:
    """Turn the fire of a buffered run that starts into a launched one."""
    tx.execute("UPDATE fires SET outcome = 'launched' WHERE run_id = ? AND outcome = 'buffered'", (run_id,))
