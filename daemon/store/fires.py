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
    tx.counts["fire", outcome] += 1


@dataclass(frozen=True)
class Summary:
    """One row for many due times that were not started."""

    schedule_id: int
    first: DueTime
    last: DueTime
    count: int
    outcome: FireOutcome
    reason: str
    decided_at: datetime


def _summary_from(row: sqlite3.Row) -> Summary:
    return Summary(
        row["schedule_id"],
        DueTime(parse_instant(row["scheduled_for"])),
        DueTime(parse_instant(row["covers_until"])),
        row["covers_count"],
        FireOutcome(row["outcome"]),
        row["reason"],
        parse_instant(row["decided_at"]),
    )


def summaries_beyond(tx: Transaction, now: datetime) -> list[Summary]:
    """Return the summaries that reach beyond now."""
    rows = tx.execute("SELECT * FROM fires WHERE covers_until > ?", (format_instant(now),))
    return [_summary_from(row) for row in rows]


def summary_over(tx: Transaction, schedule_id: int, due: DueTime) -> Summary | None:
    """Return the summary that covers a due time."""
    row = tx.execute(
        "SELECT * FROM fires WHERE schedule_id = ?1 AND covers_until >= ?2 AND scheduled_for <= ?2",
        (schedule_id, format_instant(due)),
    ).fetchone()
    return _summary_from(row) if row else None


def put_summary(tx: Transaction, summary: Summary) -> None:
    """Write a summary, or have the one that begins there cover something else; a due time's own row stays."""
    tx.execute(
        "INSERT INTO fires "
        "(schedule_id, scheduled_for, outcome, reason, decided_at, covers_until, covers_count) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
        "SET covers_until = excluded.covers_until, covers_count = excluded.covers_count WHERE covers_until IS NOT NULL",
        (
            summary.schedule_id,
            format_instant(summary.first),
            summary.outcome.value,
            summary.reason,
            format_instant(summary.decided_at),
            format_instant(summary.last),
            summary.count,
        ),
    )


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
